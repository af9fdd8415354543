//! The bill of materials of an image (SBOM), in CycloneDX 1.6: the crates that are linked in, and the libraries beside them.
//!
//! Scanners match it by package URL. It has no time and no serial number, which the format allows: the same image has the same bill.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Image, archive::architecture, run};

/// Of the image that holds this program of ours.
pub(super) fn of(program: &str, provider: &str, image: &Image, binary: &Path) -> anyhow::Result<Value> {
    let mut components = crates(program, provider)?;
    for library in &image.libraries {
        components.push(of_library(library)?);
    }
    let (name, version) = image.name().split_once(':').context("an image has a tag")?;
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container", "name": name, "version": version,
                "components": [{
                    "type": "application", "name": program, "version": version,
                    "hashes": [{ "alg": "SHA-256", "content": hash(binary)? }],
                }],
            },
        },
        "components": components,
    }))
}

/// The crates that this program links, by cargo's own word; those that only build it are not in the image.
fn crates(program: &str, provider: &str) -> anyhow::Result<Vec<Value>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "tree",
            "--frozen",
            "--package",
            program,
            "--edges",
            "normal,no-proc-macro",
        ])
        .args(["--no-default-features", "--features", provider])
        .args(["--prefix", "none", "--format", "{p}\t{l}"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let text = run(&mut cargo)?;
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        let (package, license) = line.split_once('\t').unwrap_or((line, ""));
        // `name v1.2.3`, perhaps with a path; ` (*)` marks what was listed before.
        let mut words = package.split_whitespace();
        let (name, version) = (words.next(), words.next().and_then(|word| word.strip_prefix('v')));
        let (Some(name), Some(version)) = (name, version) else {
            continue;
        };
        let license = license.trim_end_matches(" (*)").trim();
        seen.insert((name.to_owned(), version.to_owned(), license.to_owned()));
    }
    ensure!(seen.len() > 1, "cargo tree named no crate of {program}: {text}");
    let component = |(name, version, license): (String, String, String)| {
        let purl = format!("pkg:cargo/{name}@{version}");
        let mut component = json!({
            "type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl,
        });
        if !license.is_empty() {
            // Some crates still write the older form of "OR".
            component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
        }
        component
    };
    Ok(seen.into_iter().map(component).collect())
}

/// A shared library, as the package that it is of where this machine's package manager knows.
fn of_library(library: &Path) -> anyhow::Result<Value> {
    let file = library.display().to_string();
    let mut component = json!({
        "type": "library",
        "name": library.file_name().context("a library has a name")?.to_string_lossy(),
        "bom-ref": file,
        "hashes": [{ "alg": "SHA-256", "content": hash(library)? }],
        "properties": [{ "name": "ensign:path", "value": file }],
    });
    if let Some((package, version)) = package_of(library) {
        let purl = format!("pkg:deb/debian/{package}@{version}?arch={}", architecture());
        component["name"] = json!(package);
        component["version"] = json!(version);
        component["purl"] = json!(purl.replace('+', "%2B"));
    }
    Ok(component)
}

/// Debian's name and version; nothing where Debian's package manager is not, or does not know the file.
fn package_of(library: &Path) -> Option<(String, String)> {
    let owner = |path: &Path| run(Command::new("dpkg-query").arg("--search").arg(path)).ok();
    let resolved: PathBuf = library.canonicalize().ok()?;
    // Packages own the file by its place before or after /lib became a link to /usr/lib.
    let merged = resolved.strip_prefix("/usr").ok().map(|rest| Path::new("/").join(rest));
    let line = owner(library)
        .or_else(|| owner(&resolved))
        .or_else(|| merged.and_then(|path| owner(&path)))?;
    let package = line.split(':').next()?.to_owned();
    let version = run(Command::new("dpkg-query").args(["--show", "--showformat", "${Version}", &package])).ok()?;
    Some((package, version))
}

fn hash(file: &Path) -> anyhow::Result<String> {
    let content = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(hex::encode(Sha256::digest(content)))
}
