//! The end of an installation, and what comes before it: refused while pods use the driver, forced, installed again, gone.
//!
//! A site of its own with one node, installed and uninstalled by the commands of docs/chart.md, with the chart's own values.

use anyhow::{Context, ensure};
use ensign_testbed::page::Page;
use ensign_testbed::wait::{PATIENCE, until};
use ensign_testkit::patience;
use kube::api::DeleteParams;

use crate::agents::A_WHILE;
use crate::install::PAGE;
use crate::left::objects_of_ours;
use crate::pod::{self, condition};
use crate::stage::{PLACE, Stage};

const DRIVER: &str = "csi.ensign.mesh";

#[tokio::test(flavor = "multi_thread")]
async fn a_release_in_use_stays_and_one_that_was_forced_out_heals_and_leaves_nothing() -> anyhow::Result<()> {
    let page = Page::parse(PAGE);
    let [install] = page.blocks("")?;
    let [uninstall, logs, keep, force, clean] = page.blocks("Uninstallation")?;
    let stage = Stage::start().await?;
    // All that the chart's own values ask for.
    stage.site.namespace_named("istio-system").await?;
    stage.site.issuer("istio-system", "istio-ca").await?;
    stage.run(install).await?;
    let (stays, goes) = (stage.start_pod("stays").await?, stage.start_pod("goes").await?);
    let mut stream = pod::envoy(&stage.mount(&stays)?).await?.subscribe(&["default"]).await;
    stream.next_secret(patience()).await;
    let held = stream.held_version().to_owned();

    // Refused: the Job ran on the node, and nothing was taken away.
    let before = stage.ours().await?;
    let refused = stage.shell.try_run(uninstall).await?;
    ensure!(!refused.success, "uninstalled under its pods: {refused:?}");
    let told = stage.run(logs).await?;
    for said in [&refused.err, &told] {
        ensure!(
            said.contains(&format!("2 pods use {DRIVER}: {PLACE}/goes, {PLACE}/stays; ")),
            "{refused:?}\n{told}"
        );
        ensure!(
            said.contains("helm uninstall --no-hooks") && said.contains("helm rollback"),
            "{said}"
        );
    }
    let history = stage.run(keep).await?;
    ensure!(history.contains("uninstalling"), "{history}");
    let status = stage.run("helm status ensign --namespace ensign-system\n").await?;
    ensure!(status.contains("STATUS: deployed"), "{status}");
    ensure!(stage.ours().await? == before, "pods of ours are others than before");
    stream.expect_silence(A_WHILE).await;

    // Forced: who runs runs on with nobody to ask, who is to end cannot.
    stage.run(force).await?;
    stage.agents_gone().await?;
    ensure!(
        pod::connect(&stage.mount(&stays)?).await.is_err(),
        "somebody serves without an agent"
    );
    let pods = stage.pods();
    pods.delete("goes", &DeleteParams::default()).await?;
    let uid = goes.metadata.uid.clone().context("a pod has a uid")?;
    until("kubelet to try in vain", PATIENCE, async || {
        let log = std::fs::read_to_string(stage.site.nodes()[0].path("/kubelet.log"))?;
        let failed = |line: &&str| line.contains(&uid) && line.contains("UnmountVolume.TearDown failed");
        log.lines().find(failed).map(drop).context("it has not")
    })
    .await?;
    ensure!(
        pods.get("goes").await?.metadata.deletion_timestamp.is_some(),
        "it is not to end"
    );
    ensure!(
        condition(&pods.get("stays").await?, "Ready"),
        "it does not run any more"
    );

    // Installed again: both heal.
    stage.run(install).await?;
    until("pod `goes` to be gone", PATIENCE * 2, async || {
        ensure!(pods.get_opt("goes").await?.is_none(), "it is there");
        Ok(())
    })
    .await
    .with_context(|| stage.tell())?;
    let envoy = pod::envoy(&stage.mount(&stays)?).await?;
    let mut holder = envoy.subscribe_holding(&["default"], &held).await;
    holder.expect_silence(A_WHILE).await;
    let mut fresh = pod::envoy(&stage.mount(&stays)?).await?.subscribe(&["default"]).await;
    fresh.next_secret(patience()).await;
    pod::delete(&pods, "stays").await?;

    stage.run(uninstall).await?;
    stage.agents_gone().await?;
    stage.nothing_on_the_node(&[&stays, &goes]).await?;
    stage.run(clean).await?;
    let left = objects_of_ours(&stage.site.admin()).await?;
    ensure!(left.is_empty(), "left in the API: {left:?}");
    stage.finish().await
}
