//! The images of agent and RA: the same programs give the same image, with nothing in it but what the program needs, all of
//! which the bill of materials names.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use ensign_pki::crypto::PROVIDER_NAME;
use ensign_testbed::image::{Compression, ours};
use ensign_testbed::process::own_binary;
use serde_json::{Value, json};

#[test]
fn two_makings_give_the_same_images_and_bills() -> anyhow::Result<()> {
    let binary = own_binary("ensign-agent")?;
    let programs = binary.parent().context("a program is in a folder")?;
    let [one, two] = [tempfile::tempdir()?, tempfile::tempdir()?];
    let first = ours::write(programs, PROVIDER_NAME, one.path(), Compression::Gzip)?;
    let second = ours::write(programs, PROVIDER_NAME, two.path(), Compression::Gzip)?;
    for (first, second) in first.iter().zip(&second) {
        ensure!(
            first.written.digest == second.written.digest,
            "{} differs: {} and {}",
            first.name,
            first.written.digest,
            second.written.digest
        );
        let same = std::fs::read(&first.written.archive)? == std::fs::read(&second.written.archive)?;
        ensure!(same, "the archives of {} differ", first.name);
        ensure!(
            std::fs::read(&first.bill)? == std::fs::read(&second.bill)?,
            "the bills of {} differ",
            first.name
        );
    }

    for (made, user) in first.iter().zip(["0:0", "65532:65532"]) {
        let config = config(&made.written.archive)?;
        ensure!(
            config["config"]["User"] == user,
            "{} runs as {}",
            made.name,
            config["config"]["User"]
        );
        // `kubectl exec POD -- ensign-agent status` finds it.
        ensure!(
            config["config"]["Env"] == json!(["PATH=/"]),
            "{}",
            config["config"]["Env"]
        );
        bill_is_whole(&made.bill)?;
    }
    Ok(())
}

/// For people with a container builder; without one here, what it would run is run.
#[test]
fn the_dockerfile_puts_the_same_files_into_its_images() -> anyhow::Result<()> {
    let binary = own_binary("ensign-agent")?;
    let programs = binary.parent().context("a program is in a folder")?;
    let folder = tempfile::tempdir()?;
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/image");
    let dockerfile = std::fs::read_to_string(deploy.join("Dockerfile"))?;
    for made in ours::write(programs, PROVIDER_NAME, folder.path(), Compression::None)? {
        let (program, _) = made.name.split_once(':').context("an image has a tag")?;
        ensure!(
            dockerfile.contains(&format!("ENV PATH=/\nENTRYPOINT [\"/{program}\"]"))
                && dockerfile.contains(&format!("deploy/image/root.sh target/release/{program} ")),
            "the Dockerfile makes no image of {program}"
        );
        let root = folder.path().join(program);
        let script = Command::new(deploy.join("root.sh"))
            .arg(programs.join(program))
            .arg(&root)
            .status()?;
        ensure!(script.success(), "root.sh ended with {script}");
        let found = Command::new("find")
            .args([".", "-type", "f"])
            .current_dir(&root)
            .output()?;
        let mut found: Vec<_> = String::from_utf8(found.stdout)?
            .lines()
            .map(|line| line[1..].to_owned())
            .collect();
        found.sort();
        ensure!(
            found == made.paths,
            "the Dockerfile has {found:?}, we have {:?}",
            made.paths
        );
    }
    Ok(())
}

/// Every library of the image is there with its hash, and the crates that matter most with their versions.
fn bill_is_whole(path: &Path) -> anyhow::Result<()> {
    let bill: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let components = bill["components"].as_array().context("no components")?;
    for name in ["rustls", PROVIDER_NAME, "tokio", "ensign-pki"] {
        let found = components.iter().find(|component| component["name"] == name);
        let purl = found.with_context(|| format!("{} lacks {name}", path.display()))?["purl"].clone();
        ensure!(
            purl.as_str().is_some_and(|purl| purl.starts_with("pkg:cargo/")),
            "{purl}"
        );
    }
    let libraries = components.iter().filter(|component| component["properties"].is_array());
    let paths: Vec<_> = libraries
        .filter_map(|library| library["properties"][0]["value"].as_str())
        .collect();
    ensure!(paths.iter().any(|path| path.ends_with("libc.so.6")), "{paths:?}");
    // Not in any program of ours.
    ensure!(
        !components.iter().any(|component| component["name"] == "protox"),
        "a crate of the build is listed"
    );
    Ok(())
}

/// The image's configuration, read from the archive. There is no shell in its layer.
fn config(archive: &Path) -> anyhow::Result<Value> {
    let layer_and_config = blobs(archive)?;
    let mut config = None;
    for blob in layer_and_config {
        if let Ok(value) = serde_json::from_slice::<Value>(&blob)
            && value["rootfs"].is_object()
        {
            config = Some(value);
        } else if blob.starts_with(b"\x1f\x8b") {
            let names = names(&blob)?;
            ensure!(names.iter().any(|name| name.ends_with("libc.so.6")), "{names:?}");
            ensure!(!names.iter().any(|name| name.ends_with("sh")), "{names:?}");
        }
    }
    config.context("no configuration in the archive")
}

fn blobs(archive: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for entry in tar::Archive::new(std::fs::File::open(archive)?).entries()? {
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry?, &mut content)?;
        found.push(content);
    }
    Ok(found)
}

fn names(layer: &[u8]) -> anyhow::Result<Vec<String>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer));
    let entries = archive.entries()?;
    entries.map(|entry| Ok(entry?.path()?.display().to_string())).collect()
}
