//! Root on the node put a symlink where the agent is to make a folder, and where it has made one: to another pod's.

use std::os::unix::fs::{MetadataExt as _, symlink};

use anyhow::{Context, ensure};
use ensign_testbed::wait::{PATIENCE, until};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::pods::Attacker;
use super::scene::{Scene, chain_of, names};
use crate::alone::PLACE;
use crate::pod;

pub(super) async fn they_lead_nowhere(scene: &Scene<'_>) -> anyhow::Result<()> {
    let (theirs, told) = (scene.mount(&scene.victim)?, pod::volume(&scene.victim)?);
    let entries = || -> anyhow::Result<_> {
        let entries = std::fs::read_dir(&theirs)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let entries = entries.collect::<anyhow::Result<Vec<_>>>()?;
        Ok((std::fs::symlink_metadata(&theirs)?.ino(), entries))
    };
    let before = entries()?;

    // Before there is a volume. Kubelet removes what it could not mount, and then all is well.
    let planted = Attacker::new("planted", &["pause"])
        .gated()
        .attributes(json!({ "signer": "foo", "socketName": "planted.sock" }));
    let pod = scene.create(&planted).await?;
    let mine = scene.mount(&pod)?;
    std::fs::create_dir_all(mine.parent().context("a mount is in a folder")?)?;
    symlink(&told, &mine)?;
    let open = Patch::Merge(json!({ "spec": { "schedulingGates": null } }));
    scene.pods().patch("planted", &PatchParams::default(), &open).await?;
    scene.refused(&["planted".to_owned()], &["no symlink"]).await?;
    ensure!(entries()? == before, "the victim's folder changed: {:?}", entries()?);
    until("the pod to run in a folder of its own", PATIENCE * 2, async || {
        let kind = std::fs::symlink_metadata(&mine)?.file_type();
        ensure!(kind.is_dir(), "it is no folder");
        ensure!(
            pod::condition(&scene.pods().get("planted").await?, "Ready"),
            "it is not ready"
        );
        Ok(())
    })
    .await?;

    // Under a volume that is there. What kubelet asks about it fails or changes nothing, until the folder is back.
    let swapped = Attacker::new("swapped", &["pause"]);
    let pod = scene.create(&swapped).await?;
    pod::running(&scene.pods(), "swapped").await?;
    let mine = scene.mount(&pod)?;
    let aside = mine.with_extension("aside");
    std::fs::rename(&mine, &aside)?;
    symlink(&told, &mine)?;
    let volume = format!(
        "csi/{}/identity",
        pod.metadata.uid.as_deref().context("a pod has a uid")?
    );
    let complains = |words: [&str; 2]| {
        let log = scene.alone.log(PLACE, "ensign-agent");
        let found = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        ensure!(found, "the agent's log:\n{log}");
        Ok(())
    };
    until("the agent to refuse the symlink at a republish", PATIENCE, async || {
        complains([&volume, "the volume stays as it is"])
    })
    .await?;
    scene.pods().delete("swapped", &DeleteParams::default()).await?;
    let path = format!(
        "/var/lib/kubelet/pods/{}",
        pod.metadata.uid.as_deref().unwrap_or_default()
    );
    until(
        "the agent to refuse the symlink at the unpublish",
        PATIENCE,
        async || complains([&path, "NodeUnpublishVolume"]),
    )
    .await?;
    ensure!(entries()? == before, "the victim's folder changed: {:?}", entries()?);
    std::fs::remove_file(&mine)?;
    std::fs::rename(&aside, &mine)?;
    scene.delete(&["planted".to_owned()]).await?;
    until("the pod to go once its folder is back", PATIENCE * 2, async || {
        ensure!(scene.pods().get_opt("swapped").await?.is_none(), "it is there");
        Ok(())
    })
    .await?;
    names(&chain_of(scene.alone, &scene.victim).await?, &scene.quiet)
}
