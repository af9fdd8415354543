//! Writes an image as an OCI image layout in a tar archive (image-spec 1.1: layer, config, manifest, index), which containerd,
//! podman and skopeo read.
//!
//! Reproducible: paths in order, no times, no owners, modes by kind.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Seek as _, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context;
use flate2::{Compression as Level, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::{Compression, Content, Image};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// What says nothing about when it was made.
const THEN: &str = "1970-01-01T00:00:00Z";

/// An archive that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Where it is.
    pub archive: PathBuf,
    /// Of the manifest: what a registry calls the image's digest.
    pub digest: String,
    /// What is to be pulled, in bytes.
    pub size: u64,
    /// What its files need on a node, in bytes.
    pub unpacked: u64,
}

/// Passes on, and counts and hashes what it passes on.
struct Measured<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

/// A blob, as manifests refer to it.
struct Blob {
    media_type: &'static str,
    hex: String,
    size: u64,
}

pub(super) fn write(image: &Image, to: &Path, compression: Compression) -> anyhow::Result<Written> {
    let folder = to.parent().context("an archive has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let layer_file = tempfile::tempfile_in(folder).context("cannot make a file for the layer")?;
    let (mut layer_file, layer, diff_id, unpacked) = write_layer(image, layer_file, compression)?;

    let config = config(image, &diff_id).to_string();
    let config_blob = Blob::of(CONFIG, config.as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config_blob.descriptor(), "layers": [layer.descriptor()],
    });
    let manifest = manifest.to_string();
    let manifest_blob = Blob::of(MANIFEST, manifest.as_bytes());
    let mut described = manifest_blob.descriptor();
    described["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    described["annotations"] = json!({
        // containerd takes the first for the name, others the second.
        "io.containerd.image.name": format!("docker.io/library/{}", image.name),
        "org.opencontainers.image.ref.name": image.name,
    });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [described] }).to_string();

    // For everybody to read, as any file that a build makes.
    let staged = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .context("cannot make a file for the archive")?;
    let mut archive = Builder::new(staged);
    let layout = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
    for (name, text) in [("oci-layout", &layout), ("index.json", &index)] {
        entry(&mut archive, name, text.len() as u64, 0o644, text.as_bytes())?;
    }
    entry(
        &mut archive,
        &manifest_blob.place(),
        manifest_blob.size,
        0o644,
        manifest.as_bytes(),
    )?;
    entry(
        &mut archive,
        &config_blob.place(),
        config_blob.size,
        0o644,
        config.as_bytes(),
    )?;
    layer_file.rewind().context("cannot read the layer")?;
    entry(&mut archive, &layer.place(), layer.size, 0o644, layer_file)?;
    let staged = archive.into_inner().context("cannot end the archive")?;
    staged
        .persist(to)
        .with_context(|| format!("cannot rename to {}", to.display()))?;
    Ok(Written {
        archive: to.to_owned(),
        digest: manifest_blob.digest(),
        size: manifest_blob.size + config_blob.size + layer.size,
        unpacked,
    })
}

/// The layer's file, how to refer to it, the digest of what is in it, and the size of that.
fn write_layer(image: &Image, file: File, compression: Compression) -> anyhow::Result<(File, Blob, String, u64)> {
    let stored = Measured::new(file);
    let (stored, media_type, hex, unpacked) = match compression {
        Compression::None => {
            let stored = tar(image, stored)?;
            let (hex, size) = (stored.hex(), stored.size);
            (stored, LAYER, hex, size)
        }
        Compression::Gzip => {
            // Its header has neither a time nor a name.
            let plain = tar(image, Measured::new(GzEncoder::new(stored, Level::default())))?;
            let (hex, size) = (plain.hex(), plain.size);
            let stored = plain.inner.finish().context("cannot end the layer")?;
            (stored, "application/vnd.oci.image.layer.v1.tar+gzip", hex, size)
        }
    };
    let blob = Blob {
        media_type,
        hex: stored.hex(),
        size: stored.size,
    };
    Ok((stored.inner, blob, format!("sha256:{hex}"), unpacked))
}

/// The image's files, with the folders that they are in.
fn tar<W: Write>(image: &Image, to: W) -> anyhow::Result<W> {
    let mut archive = Builder::new(to);
    let mut made = BTreeSet::new();
    for (path, content) in &image.files {
        let folders: Vec<_> = Path::new(path).ancestors().skip(1).collect();
        for folder in folders.into_iter().rev().filter(|folder| *folder != Path::new("")) {
            if made.insert(folder.to_owned()) {
                let mut header = header(0, 0o755);
                header.set_entry_type(EntryType::Directory);
                let name = format!("{}/", folder.display());
                archive
                    .append_data(&mut header, name, io::empty())
                    .context("cannot add a folder")?;
            }
        }
        match content {
            Content::Text(text) => entry(&mut archive, path, text.len() as u64, 0o644, text.as_bytes())?,
            Content::Copy(source) => {
                let file = File::open(source).with_context(|| format!("cannot open {}", source.display()))?;
                let size = file.metadata().context("no metadata")?.len();
                entry(&mut archive, path, size, 0o755, file)?;
            }
        }
    }
    archive.into_inner().context("cannot end the layer")
}

fn entry<W: Write>(
    archive: &mut Builder<W>,
    path: &str,
    size: u64,
    mode: u32,
    content: impl Read,
) -> anyhow::Result<()> {
    // Never more than was announced, should the file grow.
    archive
        .append_data(&mut header(size, mode), path, content.take(size))
        .with_context(|| format!("cannot add {path}"))
}

fn header(size: u64, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn config(image: &Image, diff_id: &str) -> Value {
    json!({
        "created": THEN,
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "User": image.user, "Entrypoint": image.entrypoint, "Cmd": image.command, "WorkingDir": "/",
            // Programs are at the root: `kubectl exec` finds them by their names.
            "Env": ["PATH=/"], "Labels": image.labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": THEN, "created_by": "ensign-image" }],
    })
}

/// In Go's words.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

// === impl Blob ===

impl Blob {
    fn of(media_type: &'static str, content: &[u8]) -> Self {
        Self {
            media_type,
            hex: hex::encode(Sha256::digest(content)),
            size: content.len() as u64,
        }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hex)
    }

    fn place(&self) -> String {
        format!("blobs/sha256/{}", self.hex)
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.size })
    }
}

// === impl Measured ===

impl<W> Measured<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }

    fn hex(&self) -> String {
        hex::encode(self.hash.clone().finalize())
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
