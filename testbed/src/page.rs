//! A page of docs/ as a person reads it: its commands, section by section, run in a shell with kubectl and Helm.

use std::{
    env,
    ffi::OsString,
    os::unix::fs::symlink,
    path::Path,
    process::{Output, Stdio},
};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use crate::{
    cluster::{Access, kubectl},
    folder::Folder,
    helm,
    process::own_binary,
};

/// What a page tells to type, by the headings of its sections.
#[derive(Debug)]
pub struct Page(Vec<(String, Vec<String>)>);

/// Where the commands are typed: a folder with `deploy/` in it, kubectl, Helm and the agent's program on PATH, and nothing of the
/// developer's own.
pub struct Shell {
    folder: Folder,
    path: OsString,
    kubeconfig: OsString,
}

/// What a command or a block of commands printed.
#[derive(Debug)]
pub struct Printed {
    /// Whether each command did what it should.
    pub success: bool,
    /// On standard output.
    pub out: String,
    /// On standard error.
    pub err: String,
}

// === impl Page ===

impl Page {
    /// Commands are what stands between fences of the language `sh`.
    pub fn parse(text: &str) -> Self {
        let mut sections = vec![(String::new(), Vec::new())];
        let mut block: Option<(bool, String)> = None;
        for line in text.lines() {
            let fence = line.strip_prefix("```");
            match (&mut block, fence) {
                (Some((commands, lines)), Some(_)) => {
                    if let (true, Some((_, blocks))) = (*commands, sections.last_mut()) {
                        blocks.push(std::mem::take(lines));
                    }
                    block = None;
                }
                (Some((_, lines)), None) => {
                    lines.push_str(line);
                    lines.push('\n');
                }
                (None, Some(language)) => block = Some((language == "sh", String::new())),
                (None, None) => {
                    if let Some(title) = line.strip_prefix("## ") {
                        sections.push((title.to_owned(), Vec::new()));
                    }
                }
            }
        }
        sections.retain(|(_, blocks)| !blocks.is_empty());
        Self(sections)
    }

    /// The sections that hold commands.
    pub fn sections(&self) -> Vec<&str> {
        self.0.iter().map(|(title, _)| title.as_str()).collect()
    }

    /// All commands of a section.
    pub fn text(&self, title: &str) -> String {
        let blocks = self.0.iter().filter(|(found, _)| found == title);
        blocks
            .flat_map(|(_, blocks)| blocks.iter().map(String::as_str))
            .collect()
    }

    /// The blocks of a section: exactly so many, so that none is left out.
    pub fn blocks<const N: usize>(&self, title: &str) -> anyhow::Result<&[String; N]> {
        let section = self.0.iter().find(|(found, _)| found == title);
        let (_, blocks) = section.with_context(|| format!("no section {title:?} holds commands"))?;
        let found = blocks.len();
        blocks
            .as_slice()
            .try_into()
            .with_context(|| format!("{title:?} has {found} blocks of commands, the test runs {N}"))
    }
}

// === impl Shell ===

impl Shell {
    /// As the administrator of a cluster.
    pub fn new(access: &Access) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        symlink(
            Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("deploy"),
            folder.join("deploy"),
        )?;
        let programs = folder.join("bin");
        std::fs::create_dir(&programs)?;
        symlink(kubectl()?, programs.join("kubectl"))?;
        symlink(helm::program("helm")?, programs.join("helm"))?;
        symlink(own_binary("ensign-agent")?, programs.join("ensign-agent"))?;
        let usual = [&*programs, Path::new("/usr/bin"), Path::new("/bin")];
        Ok(Self {
            path: env::join_paths(usual)?,
            kubeconfig: access.admin_kubeconfig().into(),
            folder,
        })
    }

    /// Runs a block; it fails at its first command that does.
    pub async fn try_run(&self, block: &str) -> anyhow::Result<Printed> {
        let output = Command::new("sh")
            .args(["-eu", "-c", block])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", &self.path)
            .env("HOME", self.folder.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run a shell")?;
        Ok(Printed::from(output))
    }

    /// The same, and it must work.
    pub async fn run(&self, block: &str) -> anyhow::Result<String> {
        let printed = self.try_run(block).await?;
        ensure!(
            printed.success,
            "these commands fail:\n{block}they print:\n{}{}",
            printed.out,
            printed.err
        );
        Ok(printed.out)
    }

    /// The work in it ended well.
    pub fn finish(self) {
        self.folder.discard();
    }
}

// === impl Printed ===

impl From<Output> for Printed {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            success: output.status.success(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_their_section() {
        let page = Page::parse(
            "# T\n\n## A\n\n```sh\na\nb\n```\n\n```yaml\nno: 1\n```\n\n## B\ntext\n\n## C\n```sh\nc\n```\n",
        );
        assert_eq!(page.sections(), ["A", "C"]);
        assert_eq!(page.blocks("A").unwrap(), &["a\nb\n".to_owned()]);
        assert!(page.blocks::<2>("C").is_err() && page.blocks::<1>("B").is_err());
    }
}
