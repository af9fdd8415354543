//! Container images without a daemon, a base or a registry: the same files give the same archive, byte for byte.
//!
//! An image holds one program, the shared libraries that the loader would bring it, and nothing else: no shell, no package.
//! [`Image`] says what is in one, `archive` writes it as the OCI image specification has it, `libraries` finds what a
//! program is linked to, and `bill` lists what went in (SBOM). [`ours`] are the two that `make image` makes.

mod archive;
mod bill;
mod libraries;
pub mod ours;

pub use self::archive::Written;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

/// How glibc resolves names: as without the file, but not left to its version. Both ways are part of libc itself.
const NAMES: &str = "hosts: files dns\n";

/// An image of one layer.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    entrypoint: Vec<String>,
    command: Vec<String>,
    user: String,
    labels: BTreeMap<String, String>,
    /// By path, without the leading slash.
    files: BTreeMap<String, Content>,
    libraries: Vec<PathBuf>,
}

/// How the layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As registries want it.
    Gzip,
    /// For tests, which load it from the same disk.
    None,
}

/// What is in a file.
#[derive(Debug, Clone)]
enum Content {
    /// A copy of a file of the machine. It may be executed.
    Copy(PathBuf),
    Text(&'static str),
}

// === impl Image ===

impl Image {
    /// An empty one; `name` is a repository and a tag.
    pub fn new(name: &str, entrypoint: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
            command: Vec::new(),
            user: "0:0".to_owned(),
            labels: BTreeMap::new(),
            files: BTreeMap::new(),
            libraries: Vec::new(),
        }
    }

    /// One program with its libraries, at `/<its name>`.
    pub fn of_program(name: &str, binary: &Path) -> anyhow::Result<Self> {
        let word = binary.file_name().and_then(|word| word.to_str());
        let place = format!(
            "/{}",
            word.with_context(|| format!("{} is no program", binary.display()))?
        );
        let mut image = Self::new(name, &[&place]);
        image.copy(&place, binary);
        for library in libraries::of(binary)? {
            let place = library.to_str().context("a library's path is not UTF-8")?;
            image.copy(place, &library);
            image.libraries.push(library);
        }
        image.text("/etc/nsswitch.conf", NAMES);
        Ok(image)
    }

    /// What follows the entrypoint unless the pod says otherwise.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// As whom it runs unless the pod says otherwise: `uid:gid`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// With an annotation of the OCI specification, `org.opencontainers.image.<key>`.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels
            .insert(format!("org.opencontainers.image.{key}"), value.to_owned());
        self
    }

    /// Puts a copy of a file to a path.
    pub fn copy(&mut self, place: &str, file: &Path) {
        let place = place.trim_start_matches('/').to_owned();
        self.files.insert(place, Content::Copy(file.to_owned()));
    }

    /// Puts a text to a path.
    pub fn text(&mut self, place: &str, text: &'static str) {
        let place = place.trim_start_matches('/').to_owned();
        self.files.insert(place, Content::Text(text));
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The paths of its files.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        self.files.keys().map(|path| format!("/{path}"))
    }

    /// Writes the archive, in one step: nobody sees half of it.
    pub fn write(&self, to: &Path, compression: Compression) -> anyhow::Result<Written> {
        archive::write(self, to, compression).with_context(|| format!("cannot write the image {}", self.name))
    }
}

/// A copy of a program without its symbols, which a container does not need.
pub(crate) fn stripped(binary: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let copy = folder.join(binary.file_name().context("no program")?);
    run(Command::new("strip").arg("-o").arg(&copy).arg(binary)).context("strip is part of binutils")?;
    Ok(copy)
}

/// Runs a program of the machine and gives what it printed.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {name}"))?;
    ensure!(
        output.status.success(),
        "{name} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).with_context(|| format!("{name} printed no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(folder: &Path) -> Image {
        let program = folder.join("program");
        std::fs::write(&program, "a program").unwrap();
        let mut image = Image::new("sample:1", &["/program"])
            .user("65532:65532")
            .label("title", "sample");
        image.copy("/program", &program);
        image.text("/etc/deep/down/nsswitch.conf", NAMES);
        image
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        for compression in [Compression::Gzip, Compression::None] {
            let [one, two] = [0, 1].map(|age| {
                let folder = tempfile::tempdir().unwrap();
                let image = sample(folder.path());
                let file = std::fs::File::options().write(true).open(folder.path().join("program"));
                let then = std::time::SystemTime::now() - std::time::Duration::from_secs(1_000 * age);
                file.unwrap().set_modified(then).unwrap();
                let written = image.write(&folder.path().join("image.tar"), compression).unwrap();
                (written.digest, std::fs::read(written.archive).unwrap())
            });
            assert_eq!(one, two);
        }
    }

    #[test]
    fn another_file_or_user_is_another_image() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("image.tar");
        let image = sample(folder.path());
        let first = image.write(&to, Compression::None).unwrap().digest;
        assert_ne!(
            image.clone().user("0:0").write(&to, Compression::None).unwrap().digest,
            first
        );
        std::fs::write(folder.path().join("program"), "b program").unwrap();
        assert_ne!(image.write(&to, Compression::None).unwrap().digest, first);
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut image = sample(folder.path());
        image.copy("/more", Path::new("/nonexistent/more"));
        let error = image
            .write(&folder.path().join("image.tar"), Compression::None)
            .unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/more"), "{error:#}");
    }
}
