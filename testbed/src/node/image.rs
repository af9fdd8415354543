//! Images without a registry: a tar of one layer, as `docker save` writes it, for `ctr images import`.
//!
//! The guest image holds the one static program of `testbed/guest`; the agent's holds our own binary and the libraries
//! that it is linked to, and nothing else: no shell, no package.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tokio::process::Command;

/// The image of sandboxes and workloads.
pub const GUEST: &str = "ensign-guest:1";

/// The image that deploy/daemonset.yaml names.
pub const AGENT: &str = concat!("ensign-agent:", env!("CARGO_PKG_VERSION"));

/// Builds the guest and puts it into an image.
pub(super) async fn guest(folder: &Path) -> anyhow::Result<()> {
    let root = layer(folder, "guest")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
    let mut build = Command::new("go");
    build
        .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
        .arg(root.join("guest"))
        .arg(".")
        .current_dir(source)
        .env("CGO_ENABLED", "0");
    run(build, "go build of testbed/guest").await?;
    pack(folder, "guest", GUEST, &["/guest", "pause"]).await
}

/// Puts a program of ours into an image, with the libraries that it is linked to.
pub(super) async fn program(folder: &Path, name: &str, image: &str, binary: &Path) -> anyhow::Result<()> {
    let root = layer(folder, name)?;
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(root.join(name)).arg(binary);
    run(strip, "strip").await?;
    for library in libraries(binary).await? {
        let place = root.join(library.strip_prefix("/").unwrap_or(&library));
        std::fs::create_dir_all(place.parent().context("a library has a folder")?)?;
        std::fs::copy(&library, &place).with_context(|| format!("cannot copy {}", library.display()))?;
    }
    pack(folder, name, image, &[&format!("/{name}")]).await
}

/// What the loader would load, the loader included.
async fn libraries(binary: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(binary)
        .output()
        .await
        .context("cannot run ldd")?;
    ensure!(output.status.success(), "ldd ended with {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    let found: Vec<_> = words.map(PathBuf::from).collect();
    ensure!(!found.is_empty(), "ldd named no library: {text}");
    Ok(found)
}

fn layer(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let root = folder.join("layers").join(name);
    std::fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    Ok(root)
}

async fn pack(folder: &Path, name: &str, image: &str, entrypoint: &[&str]) -> anyhow::Result<()> {
    let work = folder.join("layers").join(format!("{name}.image"));
    std::fs::create_dir_all(&work)?;
    let mut tar = Command::new("tar");
    tar.args(["--owner=0", "--group=0", "--numeric-owner", "-C"])
        .arg(folder.join("layers").join(name))
        .arg("-cf")
        .arg(work.join("layer.tar"))
        .arg(".");
    run(tar, "tar of a layer").await?;
    let sum = Command::new("sha256sum").arg(work.join("layer.tar")).output().await;
    let sum = String::from_utf8(sum.context("cannot run sha256sum")?.stdout)?;
    let digest = sum.split_whitespace().next().context("sha256sum printed nothing")?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": entrypoint, "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [image], "Layers": ["layer.tar"] }]);
    std::fs::write(work.join("config.json"), config.to_string())?;
    std::fs::write(work.join("manifest.json"), manifest.to_string())?;
    let images = folder.join("images");
    std::fs::create_dir_all(&images)?;
    let mut tar = Command::new("tar");
    tar.arg("-C")
        .arg(&work)
        .arg("-cf")
        .arg(images.join(format!("{name}.tar")))
        .args(["manifest.json", "config.json", "layer.tar"]);
    run(tar, "tar of an image").await
}

async fn run(mut command: Command, what: &str) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("cannot run {what}"))?;
    if !output.status.success() {
        bail!(
            "{what} ended with {}:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
