//! The plain manifests are the chart's: what is checked in is what `make manifests` writes, and a folder is one that
//! `kubectl apply -f` takes.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, ensure};
use ensign_testbed::{
    cluster::{Manifests, deploy},
    folder::Folder,
    helm,
};
use kube::ResourceExt as _;

use super::Result;

/// What stands before the folders and names of a command of `make manifests`.
const COMMAND: &str = "\t@.tools/manifests deploy/chart ";

#[tokio::test]
async fn the_plain_manifests_are_what_the_chart_renders() -> Result {
    let makefile = include_str!("../../../Makefile");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut rendered = BTreeSet::new();
    for command in makefile.lines().filter_map(|line| line.strip_prefix(COMMAND)) {
        let words: Vec<_> = command.split(' ').collect();
        let [values, "ensign-system", to, names @ ..] = words.as_slice() else {
            anyhow::bail!("Makefile: {command:?} is not VALUES ensign-system FOLDER TEMPLATE...");
        };
        let folder = Folder::new()?;
        helm::plain_manifests(&root.join(values), folder.path(), names).await?;
        for name in names {
            let path = format!("{to}/{name}");
            same(&path, &folder.join(name), &root.join(&path))?;
            rendered.insert(path);
        }
        folder.discard();
    }
    let kept = ["deploy", "deploy/optional"].map(|folder| manifests(&root.join(folder)));
    let kept = kept.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let kept: BTreeSet<_> = kept
        .iter()
        .filter_map(|path| Some(path.strip_prefix(root).ok()?.display().to_string()))
        .collect();
    assert_eq!(
        rendered, kept,
        "files that `make manifests` writes, and files that are there"
    );
    Ok(())
}

/// kubectl takes each file of a folder, by its name, and makes what is in it one after the other.
#[test]
fn what_is_in_a_namespace_comes_after_it() -> Result {
    let mut made = BTreeSet::new();
    for path in manifests(&deploy::file(""))? {
        let text = std::fs::read_to_string(&path)?;
        for object in Manifests::parse(&text)?.objects() {
            let kind = object.types.as_ref().context("no kind")?.kind.as_str();
            let place = object.namespace();
            ensure!(
                place.is_none() || made.contains(&place) || place.as_deref() == Some("istio-system"),
                "{}: {kind} {} comes before its namespace {place:?}",
                path.display(),
                object.name_any()
            );
            if kind == "Namespace" {
                made.insert(Some(object.name_any()));
            }
        }
    }
    assert_eq!(made.len(), 2, "{made:?}");
    Ok(())
}

fn same(name: &str, rendered: &Path, kept: &Path) -> Result {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("no {}", path.display()));
    let (rendered, kept) = (read(rendered)?, read(kept)?);
    let differs = kept
        .lines()
        .zip(rendered.lines())
        .position(|(kept, rendered)| kept != rendered);
    ensure!(
        rendered == kept,
        "{name} is not what the chart renders, from line {} on: change deploy/chart, run `make manifests`",
        differs.map_or(kept.lines().count(), |line| line + 1)
    );
    Ok(())
}

/// What `kubectl apply -f` finds in a folder, in its order.
fn manifests(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().and_then(std::ffi::OsStr::to_str);
        if path.is_file() && ending.is_some_and(|ending| ["json", "yaml", "yml"].contains(&ending)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
