//! The two images that are for people: the agent's and the RA's, with the names that deploy/ gives them.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Compression, Image, Written, bill, stripped};

/// The image that deploy/daemonset.yaml names.
pub const AGENT: &str = concat!("ensign-agent:", env!("CARGO_PKG_VERSION"));

/// The image that deploy/ra.yaml names.
pub const RA: &str = concat!("ensign-ra:", env!("CARGO_PKG_VERSION"));

/// One of the two.
#[derive(Debug, Clone, Copy)]
struct Recipe {
    program: &'static str,
    image: &'static str,
    user: &'static str,
    description: &'static str,
}

const RECIPES: [Recipe; 2] = [
    Recipe {
        program: "ensign-agent",
        image: AGENT,
        // Kubelet's folders are root's. The pod takes every capability away.
        user: "0:0",
        description: "Node agent of Ensign: certificates for the Envoys of a node",
    },
    Recipe {
        program: "ensign-ra",
        image: RA,
        user: "65532:65532",
        description: "Registration authority of Ensign",
    },
];

/// An image with the list of what is in it.
#[derive(Debug, Clone)]
pub struct Ours {
    /// Its name.
    pub name: &'static str,
    /// Its files.
    pub paths: Vec<String>,
    /// The archive, `<program>.tar`.
    pub written: Written,
    /// The bill of materials (CycloneDX), `<program>.cdx.json`.
    pub bill: PathBuf,
}

/// Makes both from the programs in a folder, which were built with this crypto provider (a feature of theirs).
pub fn write(programs: &Path, provider: &str, to: &Path, compression: Compression) -> anyhow::Result<Vec<Ours>> {
    let work = tempfile::tempdir().context("cannot make a folder")?;
    let mut made = Vec::new();
    for recipe in RECIPES {
        let program = recipe.program;
        let binary = stripped(&programs.join(program), work.path())?;
        let image = Image::of_program(recipe.image, &binary)?
            .user(recipe.user)
            .label("title", program)
            .label("description", recipe.description)
            .label("version", env!("CARGO_PKG_VERSION"))
            .label("licenses", "Apache-2.0");
        let written = image.write(&to.join(format!("{program}.tar")), compression)?;
        let bill = to.join(format!("{program}.cdx.json"));
        let text = format!("{:#}\n", bill::of(program, provider, &image, &binary)?);
        std::fs::write(&bill, text).with_context(|| format!("cannot write {}", bill.display()))?;
        made.push(Ours {
            name: recipe.image,
            paths: image.paths().collect(),
            written,
            bill,
        });
    }
    Ok(made)
}
