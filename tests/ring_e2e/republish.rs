//! Kubelet publishes a volume again and again. The folder that containers hold is never made again, whatever is wrong with a
//! call and whatever becomes of the socket.
//!
//! Kubelet does so every 10 s here. A hundred calls more come from the test, on the driver's own socket and in kubelet's words,
//! because a real kubelet cannot be made to bring no token or an expired one.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use ensign_proto::csi::v1::node_client::NodeClient;
use ensign_testbed::cluster::TokenOf;
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::metrics::Metrics;
use ensign_testkit::{csi, patience};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::mesh::Mesh;
use crate::pod;
use crate::restarts::looks_in;
use crate::workload::Workload;

const ROUNDS: usize = 100;

/// What a call brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Brings {
    /// A new token of the pod, as far as the API server is concerned.
    Token,
    Nothing,
    /// One whose time is over.
    Expired,
}

const EACH: [Brings; 3] = [Brings::Token, Brings::Nothing, Brings::Expired];

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_publishes_whatever_they_bring_leave_the_folder_as_it_is() -> anyhow::Result<()> {
    let mesh = Mesh::join().await?;
    let place = mesh.namespace_with("foo", "foo").await?;
    let workload = Workload::new(&place, "web").attributes(json!({ "signer": "foo" }));
    let pod = mesh.start(&workload).await?;
    let node = mesh.node_of(&pod)?.name().to_owned();
    let mount = mesh.mount(&pod)?;
    let folder = std::fs::metadata(&mount)?.ino();
    let mut held = mesh.envoy(&pod).await?.subscribe(&["default"]).await;
    held.next_secret(patience()).await;
    let before = mesh.metrics(&node).await?;

    let socket = mount.join("ensign.sock");
    for round in 0..ROUNDS {
        if round % 10 == 5 {
            there(&socket).await.with_context(|| mesh.agents_tell())?;
            std::fs::remove_file(&socket)?;
        }
        let brings = EACH[round % EACH.len()];
        publish(&mesh, &pod, brings)
            .await
            .with_context(|| format!("round {round}, {brings:?}"))?;
        ensure!(
            std::fs::metadata(&mount)?.ino() == folder,
            "round {round}, {brings:?}: the folder was made again"
        );
    }
    there(&socket).await.with_context(|| mesh.agents_tell())?;

    // What was wrong was counted, and nothing else was.
    let after = mesh.metrics(&node).await?;
    let wrong = (0..ROUNDS).map(|round| u32::from(EACH[round % EACH.len()] == Brings::Nothing));
    let kept = calls(&after, "kept") - calls(&before, "kept");
    ensure!(
        kept == f64::from(wrong.sum::<u32>()),
        "{kept} calls were wrong and changed nothing"
    );
    let remade = after.sum("ensign_agent_csi_targets_remade_total", &[]);
    ensure!(remade == Some(0.0), "{remade:?} folders were made again");

    // Kubelet's own next call finds it as it was; so do the container, its Envoy, and one that comes now.
    until("kubelet to publish again", PATIENCE, async || {
        let now = mesh.metrics(&node).await?;
        ensure!(calls(&now, "ok") > calls(&after, "ok"), "it has not");
        Ok(())
    })
    .await?;
    looks_in(&mesh, &pod).await?;
    ensure!(std::fs::metadata(&mount)?.ino() == folder, "the folder was made again");
    held.expect_silence(Duration::from_secs(1)).await;
    let mut fresh = mesh.envoy(&pod).await?.subscribe(&["default"]).await;
    fresh.next_secret(patience()).await;
    ensure!(
        fresh.held_version() == held.held_version(),
        "a newcomer has another certificate"
    );
    let issued = mesh.issued(&place);
    ensure!(issued == 1, "{issued} certificates for one pod");
    mesh.finish().await
}

/// Kubelet's call. It is never told that anything is wrong, or it would remove the folder.
async fn publish(mesh: &Mesh, pod: &Pod, brings: Brings) -> anyhow::Result<()> {
    let meta = &pod.metadata;
    let [namespace, name, uid] = [&meta.namespace, &meta.name, &meta.uid].map(|field| field.as_deref());
    let namespace = namespace.context("no namespace")?;
    let target = pod::volume(pod)?;
    let published = csi::Published {
        namespace,
        pod: name.context("no name")?,
        uid: uid.context("no UID")?,
        account: "default",
        target: Path::new(&target),
        attributes: [("signer".to_owned(), "foo".to_owned())].into(),
    };
    let tokens = match brings {
        Brings::Nothing => None,
        Brings::Token | Brings::Expired => {
            // Longer than kubelet's, of which it would be taken for an older one.
            let day = Duration::from_hours(24);
            let of = TokenOf::new(namespace, "default").pod(pod).expiry(day);
            let token = mesh.token(&of).await?;
            let ends = match brings {
                Brings::Token => SystemTime::now() + day,
                Brings::Nothing | Brings::Expired => SystemTime::now() - day,
            };
            let ends = OffsetDateTime::from(ends).format(&Rfc3339)?;
            Some(csi::tokens(&token, &ends))
        }
    };
    let driver = mesh
        .node_of(pod)?
        .path("/var/lib/kubelet/plugins/csi.ensign.mesh/csi.sock");
    let driver = csi::dial(&driver).await?;
    NodeClient::new(driver)
        .node_publish_volume(published.request(tokens))
        .await?;
    Ok(())
}

async fn there(socket: &Path) -> anyhow::Result<()> {
    until("the removed socket to be back", PATIENCE, async || {
        std::fs::symlink_metadata(socket).map(drop).context("it is not there")
    })
    .await
}

fn calls(metrics: &Metrics, outcome: &str) -> f64 {
    let labels = [("method", "NodePublishVolume"), ("outcome", outcome)];
    metrics.sum("ensign_agent_csi_calls_total", &labels).unwrap_or_default()
}
