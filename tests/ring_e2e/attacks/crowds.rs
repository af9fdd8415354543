//! Attacks by what pods ask of their volumes, and by how many volumes there are.

use anyhow::ensure;
use ensign_testbed::cluster::TokenOf;
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::kubelet::{self, Kubelet};
use serde_json::json;

use super::pods::Attacker;
use super::scene::Scene;

/// Names that lead out of the folder, hide, or are no names.
pub(super) async fn names_of_sockets_are_names(scene: &Scene<'_>) -> anyhow::Result<()> {
    let long = "a".repeat(65);
    let hostile = [
        "../escaped.sock",
        "/escaped.sock",
        "..",
        ".hidden",
        "a\nb",
        "",
        "s\u{f6}ck",
        &long,
    ];
    let mut names = Vec::new();
    let mut mounts = Vec::new();
    for (number, name) in hostile.iter().enumerate() {
        let attacker = Attacker::new(&format!("named-{number}"), &["pause"])
            .attributes(json!({ "signer": "foo", "socketName": name }));
        mounts.push(scene.mount(&scene.create(&attacker).await?)?);
        names.push(attacker.name().to_owned());
    }
    scene.refused(&names, &["socketName", "64 letters"]).await?;
    for mount in &mounts {
        ensure!(
            std::fs::symlink_metadata(mount).is_err(),
            "{} is there",
            mount.display()
        );
        let escaped = mount.with_file_name("escaped.sock");
        ensure!(
            std::fs::symlink_metadata(&escaped).is_err(),
            "{} is there",
            escaped.display()
        );
    }
    scene.delete(&names).await
}

/// RSA keys cost seconds of a processor each; without the operator's word none is made. With it: [`super::rsa`].
pub(super) async fn keys_of_other_kinds_are_the_operators_to_allow(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut names = Vec::new();
    let mut mounts = Vec::new();
    for number in 0..25 {
        let attacker = Attacker::new(&format!("rsa-{number}"), &["pause"])
            .attributes(json!({ "signer": "foo", "keyType": "RSA-4096" }))
            .volumes(4);
        mounts.push(scene.mount(&scene.create(&attacker).await?)?);
        names.push(attacker.name().to_owned());
    }
    scene.unharmed("25 pods ask for RSA keys").await?;
    scene.refused(&names, &["keyType", "--csi-key-types"]).await?;
    for mount in &mounts {
        ensure!(
            std::fs::symlink_metadata(mount).is_err(),
            "{} is there",
            mount.display()
        );
    }
    scene.delete(&names).await
}

/// More than a kubelet has pods, so they are asked for on the agent's socket as kubelet asks. The real one, which would clear away folders of
/// pods that it does not know, rests until their sockets are in them.
pub(super) async fn five_hundred_volumes_are_not_too_many(scene: &Scene<'_>) -> anyhow::Result<()> {
    let crowd = scene.alone.cluster.namespace("crowd").await?;
    let token = scene.alone.cluster.token(&TokenOf::new(&crowd, "default")).await?;
    let kubelet = Kubelet::known_as(scene.alone.node.path("/var/lib/kubelet"), "/var/lib/kubelet".into());
    let pods: Vec<_> = (0..VOLUMES)
        .map(|number| kubelet::Pod {
            namespace: crowd.clone(),
            account: "default".to_owned(),
            ..kubelet::Pod::new(&format!("crowd-{number}"))
                .with("signer", "foo")
                .with_token(&token)
        })
        .collect();
    let before = scene.volumes().await?;
    signal(scene, "STOP").await?;
    for pod in &pods {
        kubelet.publish(pod).await?;
    }
    signal(scene, "CONT").await?;
    let all = scene.volumes().await?;
    ensure!(all == before + VOLUMES, "{before} volumes before, now {all}");
    scene.unharmed("500 volumes came at once").await?;
    until("a certificate for each of them", PATIENCE * 4, async || {
        let issued = scene.alone.issued(&crowd);
        ensure!(issued == VOLUMES, "{issued} certificates");
        Ok(())
    })
    .await?;
    scene.unharmed("500 volumes have certificates").await?;
    for pod in &pods {
        kubelet.unpublish(pod).await?;
    }
    let left = scene.volumes().await?;
    // Those of the two neighbours who came meanwhile.
    ensure!(left == before + 2, "{before} volumes before, {left} left");
    Ok(())
}

/// To the node's kubelet.
async fn signal(scene: &Scene<'_>, name: &str) -> anyhow::Result<()> {
    for process in scene.alone.node.processes("kubelet").await? {
        let words = ["kill", "-s", name, &process.to_string()];
        scene.alone.node.run(&words).await?;
    }
    Ok(())
}

const VOLUMES: usize = 500;
