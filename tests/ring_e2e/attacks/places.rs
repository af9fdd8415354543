//! Attacks on places: a pod's own socket, others' sockets, kubelet's.

use std::os::unix::fs::FileTypeExt as _;

use anyhow::{Context, ensure};
use ensign_proto::csi::v1::NodeUnpublishVolumeRequest;
use ensign_testkit::kubelet::{self, Kubelet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use prost::Message as _;
use serde_json::json;

use super::pods::Attacker;
use super::scene::{Scene, chain_of, names};
use crate::pod;

/// Kubelet's folder, as the node and the agent know it.
const KUBELET: &str = "/var/lib/kubelet";

/// Where the agent listens for kubelet.
const DRIVER: &str = "/var/lib/kubelet/plugins/csi.ensign.mesh";

/// Root in its container, the pod tries everything on the folder. A volume that it might write is none.
pub(super) async fn its_own_socket_cannot_be_replaced(scene: &Scene<'_>) -> anyhow::Result<()> {
    let writable = Attacker::new("writable", &["replace", "/v0/ensign.sock"]).writable();
    scene.create(&writable).await?;
    let replaces = Attacker::new("replaces", &["replace", "/v0/ensign.sock"]);
    let log = scene.told(&replaces, |line| line.contains("replace: ")).await?;
    ensure!(
        !log.contains("could ") && log.contains("replace: 16 of 16 refused"),
        "{log}"
    );
    let attacker = scene.pods().get("replaces").await?;
    names(&chain_of(scene.alone, &attacker).await?, &scene.place)?;
    scene.refused(&["writable".to_owned()], &["readOnly: true"]).await?;
    scene.delete(&["writable".to_owned(), "replaces".to_owned()]).await
}

/// No path of the node leads out of a pod, and the folders of kubelet's calls let in nobody but root.
pub(super) async fn nobody_elses_socket_can_be_reached(scene: &Scene<'_>) -> anyhow::Result<()> {
    let paths = [
        format!("{}/ensign.sock", pod::volume(&scene.victim)?),
        format!("{DRIVER}/csi.sock"),
        format!("{KUBELET}/plugins_registry/csi.ensign.mesh-reg.sock"),
    ];
    for path in &paths {
        let kind = std::fs::symlink_metadata(scene.alone.node.path(path))?.file_type();
        ensure!(kind.is_socket(), "{path} is no socket of the node");
    }
    // By the pod's own ways, too: another root of its first process, and up from its volume.
    let ways = |path: &String| [path.clone(), format!("/proc/1/root{path}"), format!("/v0/../..{path}")];
    let mut args = vec!["reach".to_owned(), "/v0/ensign.sock".to_owned()];
    args.extend(paths.iter().flat_map(ways));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let log = scene
        .told(&Attacker::new("reaches", &args), |line| line.contains("tried "))
        .await?;
    let reached: Vec<_> = log.lines().filter(|line| line.contains("reached ")).collect();
    ensure!(
        reached.len() == 1 && reached[0].ends_with("reached /v0/ensign.sock"),
        "{log}"
    );

    // With the node's folder in its pod, which no Pod Security but `privileged` allows, a user is still no root.
    let peeps = Attacker::new("peeps", &["reach", "/host/csi.sock"]).host(DRIVER);
    let log = scene.told(&peeps, |line| line.contains("tried ")).await?;
    ensure!(
        log.contains("permission denied") && !log.contains("reached /host"),
        "{log}"
    );
    let strict = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "strict", "labels": { "pod-security.kubernetes.io/enforce": "baseline" } },
    });
    scene.alone.cluster.apply_yaml(&strict.to_string()).await?;
    let pods = kube::Api::<Pod>::namespaced(scene.alone.cluster.admin(), "strict");
    let refused = pods
        .create(&PostParams::default(), &serde_json::from_value(peeps.object())?)
        .await;
    let refused = refused.err().context("Pod Security let a hostPath in")?.to_string();
    ensure!(refused.contains("hostPath"), "{refused}");
    scene.delete(&["reaches".to_owned(), "peeps".to_owned()]).await
}

/// What kubelet may ask is asked on the only socket that a pod has: for a volume more in the victim's name, whose folder is there as kubelet
/// would have made it, and for the end of the one that the victim has.
pub(super) async fn kubelets_calls_cannot_be_forged(scene: &Scene<'_>) -> anyhow::Result<()> {
    let kubelet = Kubelet::known_as(scene.alone.node.path(KUBELET), KUBELET.into());
    let forged = kubelet::Pod {
        uid: scene.victim.metadata.uid.clone().context("a pod has a uid")?,
        namespace: scene.quiet.clone(),
        account: "default".to_owned(),
        volume: "forged".to_owned(),
        ..kubelet::Pod::new("forged")
    };
    let folder = kubelet.mount(&forged);
    let parent = folder.parent().context("a mount is in a folder")?;
    std::fs::create_dir(parent)?;
    let publish = kubelet.request(&forged).encode_to_vec();
    let unpublish = NodeUnpublishVolumeRequest {
        volume_id: "forged".to_owned(),
        target_path: pod::volume(&scene.victim)?,
    };
    for (name, method, request) in [
        ("forges", "NodePublishVolume", publish),
        ("wipes", "NodeUnpublishVolume", unpublish.encode_to_vec()),
    ] {
        let method = format!("/csi.v1.Node/{method}");
        let attacker = Attacker::new(name, &["call", "/v0/ensign.sock", &method, &hex::encode(request)]);
        let log = scene.told(&attacker, |line| line.contains("call of ")).await?;
        ensure!(log.contains("ended 1 times"), "{log}");
    }
    ensure!(
        std::fs::symlink_metadata(&folder).is_err(),
        "the forged volume is there"
    );
    std::fs::remove_dir(parent)?;
    names(&chain_of(scene.alone, &scene.victim).await?, &scene.quiet)?;
    scene.delete(&["forges".to_owned(), "wipes".to_owned()]).await
}
