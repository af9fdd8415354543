//! An installation by `kubectl apply` and the files of deploy/ alone, as docs/install.md tells it: everything at once, and the RA in one
//! of its ways with the agents after it. A pod has its certificate each time, and nothing is left in the end.

use anyhow::ensure;
use ensign_testbed::page::Page;
use ensign_testkit::patience;

use crate::left::objects_of_ours;
use crate::pod;
use crate::stage::{PLACE, Stage};

const PAGE: &str = include_str!("../../docs/install.md");

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_deploy_give_pods_their_certificates_and_leave_nothing() -> anyhow::Result<()> {
    let page = Page::parse(PAGE);
    let [issuer, everything, status] = page.blocks("Everything at once")?;
    let [same_issuer, roots, ra, ..] = page.blocks::<5>("With cert-manager, as istio-csr")?;
    let [agents] = page.blocks("The agents")?;
    let [_, _, rest] = page.blocks("Uninstall")?;
    let stage = Stage::start().await?;

    stage.run(issuer).await?;
    stage.run(everything).await?;
    served(&stage, "first").await?;
    let certificates = stage.run(status).await?;
    ensure!(certificates.contains("ns/default/sa/default"), "{certificates}");
    taken_away(&stage, "first", &page).await?;

    for commands in [same_issuer, roots, ra, agents] {
        stage.run(commands).await?;
    }
    served(&stage, "second").await?;
    taken_away(&stage, "second", &page).await?;
    stage.run(rest).await?;
    let left = objects_of_ours(&stage.site.admin()).await?;
    ensure!(left.is_empty(), "left in the API: {left:?}");
    stage.finish().await
}

/// A pod with a volume of ours gets its certificate.
async fn served(stage: &Stage, name: &str) -> anyhow::Result<()> {
    let pod = stage.start_pod(name).await?;
    let mut stream = pod::envoy(&stage.mount(&pod)?).await?.subscribe(&["default"]).await;
    stream.next_secret(patience()).await;
    Ok(())
}

/// The pod is named as long as it has its volume; then all goes, and the node keeps nothing.
async fn taken_away(stage: &Stage, name: &str, page: &Page) -> anyhow::Result<()> {
    let [in_use, ours, _] = page.blocks("Uninstall")?;
    let using = stage.run(in_use).await?;
    ensure!(using == format!("{PLACE}/{name}\n"), "{using}");
    let pod = stage.pods().get(name).await?;
    pod::delete(&stage.pods(), name).await?;
    let using = stage.run(in_use).await?;
    ensure!(using.is_empty(), "{using}");
    stage.run(ours).await?;
    stage.agents_gone().await?;
    stage.nothing_on_the_node(&[&pod]).await
}
