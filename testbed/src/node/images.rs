//! The images that a node knows, since no registry can be asked: ours, and what pods of tests run.
//!
//! Ours are those of `make image` if `ENSIGN_IMAGES` says where they are (`make test-image` does); else they are made in the same
//! way from the programs that cargo has just built.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use ensign_testkit::PROVIDER_NAME;

use crate::{
    image::{Compression, Image, ours, run, stripped},
    process::own_binary,
};

/// The image of sandboxes and of small workloads.
pub const GUEST: &str = "ensign-guest:1";

/// Envoy, as `testbed/tools` pins it.
pub const ENVOY: &str = "ensign-envoy:1";

/// CoreDNS, as `testbed/kubernetes` builds it.
pub(crate) const COREDNS: &str = "ensign-coredns:1";

/// The archives of a folder: what [`super::Node::start`] imports. They are needed until the nodes are ready, and are removed
/// with this.
#[derive(Debug)]
pub struct Images {
    folder: PathBuf,
}

// === impl Images ===

impl Images {
    /// Puts all of them into a folder.
    pub async fn make(folder: &Path) -> anyhow::Result<Self> {
        let images = Self {
            folder: folder.to_owned(),
        };
        let to = folder.to_owned();
        tokio::task::spawn_blocking(move || make_all(&to)).await??;
        Ok(images)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        // Whoever removes the folder around it finds what is left.
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn make_all(to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    if let Some(made) = env::var_os("ENSIGN_IMAGES").map(PathBuf::from) {
        take(&made, to)?;
    } else {
        let binary = own_binary("ensign-agent")?;
        own_binary("ensign-ra")?;
        let programs = binary.parent().context("a program is in a folder")?;
        ours::write(programs, PROVIDER_NAME, to, Compression::None)?;
    }
    let work = tempfile::tempdir().context("cannot make a folder")?;
    guest(work.path())?.write(&to.join("guest.tar"), Compression::None)?;
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools");
    for (name, binary, make) in [
        (ENVOY, "envoy", "make tools"),
        (COREDNS, "kubernetes/bin/coredns", "make kubernetes"),
    ] {
        let binary = tools.join(binary);
        ensure!(binary.is_file(), "{} is not there: run `{make}`", binary.display());
        let image = Image::of_program(name, &stripped(&binary, work.path())?)?;
        let file = name.replace(':', "-");
        image.write(&to.join(format!("{file}.tar")), Compression::None)?;
    }
    Ok(())
}

/// Those that `make image` made, as they are.
fn take(made: &Path, to: &Path) -> anyhow::Result<()> {
    for name in ["ensign-agent.tar", "ensign-ra.tar"] {
        let from = made.join(name);
        std::fs::copy(&from, to.join(name))
            .with_context(|| format!("cannot copy {} (ENSIGN_IMAGES): run `make image`", from.display()))?;
    }
    Ok(())
}

/// Builds the one static program of `testbed/guest`.
pub fn build_guest(program: &Path) -> anyhow::Result<()> {
    run(Command::new("go")
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
        .arg(program)
        .arg(".")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("guest"))
        .env("CGO_ENABLED", "0"))
    .map(drop)
    .context("testbed/guest")
}

fn guest(work: &Path) -> anyhow::Result<Image> {
    let program = work.join("guest");
    build_guest(&program)?;
    let mut image = Image::new(GUEST, &["/guest"]).command(&["pause"]);
    image.copy("/guest", &program);
    Ok(image)
}
