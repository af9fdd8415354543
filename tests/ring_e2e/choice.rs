//! Who chooses a workload's signer where the policy leaves the choice: the volume's attribute, else the Envoy's metadata, else the
//! policy's default. Each pod has a signer that no other way would give it.

use anyhow::{Context, ensure};
use ensign_testbed::envoy::EnvoySpec;
use ensign_testbed::serial;
use ensign_testbed::wait::{PATIENCE, until};
use serde_json::{Value, json};

use crate::alone::{Alone, SIGNERS};
use crate::workload::{Proxy, Workload};

#[tokio::test(flavor = "multi_thread")]
async fn the_volume_chooses_before_the_envoy_and_the_envoy_before_the_policy() -> anyhow::Result<()> {
    let alone = Alone::start().await?;
    let [default, second, third, fourth] = SIGNERS;
    for (name, attribute, metadata, expected) in [
        ("neither", None, None, default),
        ("attribute", Some(second), None, second),
        ("metadata", None, Some(third), third),
        ("both", Some(fourth), Some(third), fourth),
    ] {
        let place = alone.cluster.namespace(name).await?;
        let attributes = attribute.map_or_else(|| json!({}), |signer| json!({ "signer": signer }));
        let workload = Workload::new(&place, "web").attributes(attributes);
        let wish = |envoy: EnvoySpec| match metadata {
            Some(signer) => envoy.signer(signer),
            None => envoy,
        };
        // It listens, or it would ask for no certificate.
        let web = alone.proxy(workload, |envoy| wish(envoy.serving())).await?;
        signed_by(&alone, &web, expected)
            .await
            .with_context(|| format!("{name}: not from {expected}"))?;
        let issued = alone.issued(&place);
        ensure!(issued == 1, "{name}: {issued} certificates for one Envoy");
    }
    alone.finish().await
}

/// What Envoy holds: a certificate that this signer issued, and the roots of this signer alone.
async fn signed_by(alone: &Alone, web: &Proxy, signer: &str) -> anyhow::Result<()> {
    let root = serial::of_pem(&alone.root_of(signer)?)?;
    let held = until("both secrets in Envoy", PATIENCE, async || {
        let held = web.admin.certificates().await?;
        let held = held
            .into_iter()
            .find(|held| !held.chain.is_empty() && !held.roots.is_empty());
        held.context("not yet")
    })
    .await?;
    ensure!(
        held.roots == [root.clone()],
        "its roots are {:?}, not {root}",
        held.roots
    );
    ensure!(held.uris == [web.id.clone()], "it is for {:?}", held.uris);
    let log = alone.ra.log().lines();
    let mut events = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let issued = events.find(|event| {
        let serial = event["serial"].as_str().map(serial::normal);
        event["message"] == "certificate issued" && serial.as_ref() == held.chain.first()
    });
    let issued = issued.with_context(|| format!("the RA issued no {:?}", held.chain))?;
    ensure!(issued["signer"] == signer, "{issued}");
    Ok(())
}
