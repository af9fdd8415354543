//! A hundred RSA-4096 keys at once, where the operator allows them: only in a build that makes such keys (`make test-aws-lc-rs`).

use anyhow::ensure;
use ensign_testbed::wait::{PATIENCE, until};
use serde_json::json;

use super::pods::Attacker;
use super::scene::Scene;
use crate::alone::{Alone, SIGNERS, Wish};

/// Each with as many volumes as it may have, each volume with a key of its own, because its signer is another.
const PODS: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_rsa_keys_are_made_one_at_a_time_and_nobody_else_waits_for_them() -> anyhow::Result<()> {
    let alone = Alone::start_with(Wish {
        settings: [("ENSIGN_CSI_KEY_TYPES", "P-256,RSA-4096")].into(),
        ..Wish::default()
    })
    .await?;
    let scene = Scene::open(&alone).await?;
    let mut names = Vec::new();
    for number in 0..PODS {
        let volumes = SIGNERS.map(|signer| json!({ "signer": signer, "keyType": "RSA-4096" }));
        let attacker = Attacker::new(&format!("rsa-{number}"), &["pause"]).volumes_with(volumes.into());
        scene.create(&attacker).await?;
        names.push(attacker.name().to_owned());
    }
    let all = PODS * SIGNERS.len();
    until("all volumes to be published", PATIENCE * 4, async || {
        let volumes = scene.volumes().await?;
        ensure!(volumes == all + scene.neighbours(), "{volumes} volumes");
        Ok(())
    })
    .await?;
    for look in 1..=3 {
        let (queued, made) = (queued(&scene).await?, alone.issued(&scene.place));
        println!("{queued} requests wait for their keys, {made} certificates of {all}");
        scene.unharmed(&format!("while RSA keys are made, look {look}")).await?;
        ensure!(
            queued > 0,
            "no key is waited for any more: {made} certificates of {all}"
        );
        // One that has just made its key may not be gone yet.
        let threads = making(&scene).await?;
        ensure!((1..=2).contains(&threads), "{threads} threads make keys");
    }
    until("some of the keys to be in certificates", PATIENCE * 4, async || {
        let issued = alone.issued(&scene.place);
        ensure!(issued >= 3, "{issued} certificates");
        Ok(())
    })
    .await?;

    // Nobody waits for the rest any more, so it is not made.
    scene.delete(&names).await?;
    until("the agent to be done with them", PATIENCE, async || {
        let (volumes, queued, threads) = (scene.volumes().await?, queued(&scene).await?, making(&scene).await?);
        ensure!(
            (volumes, queued, threads) == (scene.neighbours(), 0, 0),
            "{volumes} volumes, {queued} requests wait, {threads} keys are being made"
        );
        Ok(())
    })
    .await?;
    scene.unharmed("after the RSA keys").await?;
    alone.finish().await
}

/// How many requests wait for a slot or their key.
async fn queued(scene: &Scene<'_>) -> anyhow::Result<usize> {
    let metrics = scene.alone.metrics().await?;
    let queued = metrics.sum("ensign_agent_requests_queued", &[]).unwrap_or_default();
    Ok(format!("{queued}").parse()?)
}

/// How many threads of the agent make keys.
async fn making(scene: &Scene<'_>) -> anyhow::Result<usize> {
    let text = scene.alone.node.run(&["/bin/sh", "-c", THREADS]).await?;
    Ok(text.trim().parse()?)
}

const THREADS: &str = "for process in /proc/[0-9]*; do
    if [ \"$(cat \"$process/comm\" 2>/dev/null)\" = ensign-agent ]; then
        exec sh -c \"cat $process/task/*/comm 2>/dev/null | grep -c '^rsa-key' || true\"
    fi
done
exit 1";
