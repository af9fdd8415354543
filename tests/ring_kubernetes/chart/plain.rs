//! The plain manifests are the chart's: what is checked in is what `make manifests` writes.

use anyhow::ensure;
use ensign_testbed::{cluster::deploy, folder::Folder, helm};

use super::Result;

#[tokio::test]
async fn the_plain_manifests_are_what_the_chart_renders() -> Result {
    let makefile = include_str!("../../../Makefile");
    let list = makefile.lines().find_map(|line| line.strip_prefix("MANIFESTS := "));
    let names: Vec<_> = list.unwrap_or_default().split(' ').collect();
    assert_eq!(names.len(), 6, "{names:?}");

    let folder = Folder::new()?;
    helm::plain_manifests(folder.path(), &names).await?;
    for name in names {
        let (rendered, kept) = (
            std::fs::read_to_string(folder.join(name))?,
            std::fs::read_to_string(deploy::file(name))?,
        );
        let differs = kept
            .lines()
            .zip(rendered.lines())
            .position(|(kept, rendered)| kept != rendered);
        ensure!(
            rendered == kept,
            "deploy/{name} is not what the chart renders, from line {} on: change deploy/chart, run `make manifests`",
            differs.map_or(kept.lines().count(), |line| line + 1)
        );
    }
    folder.discard();
    Ok(())
}
