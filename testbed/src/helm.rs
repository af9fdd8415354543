//! Helm, as a person uses it: the chart of `deploy/chart` rendered, or installed into a cluster.
//!
//! Helm's refusals come back as errors with its own sentences. Each call has settings and caches of its own, so nothing of
//! the user's Helm counts, and nothing is fetched.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::{
    cluster::{Access, Manifests},
    folder::Folder,
};

/// Helm at work on one cluster.
pub struct Helm {
    kubeconfig: PathBuf,
    folder: Folder,
}

/// The chart.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("deploy")
        .join("chart")
}

/// A program of `make helm`: in the folder `ENSIGN_HELM`, or what was linked into `.tools/`.
pub(crate) fn program(name: &str) -> anyhow::Result<PathBuf> {
    let folder = match env::var_os("ENSIGN_HELM") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".tools"),
    };
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "there is no {}: run `make setup`, or set ENSIGN_HELM to a folder with helm and manifests",
        path.display()
    );
    Ok(path)
}

/// What the chart is with these values in place of its own: every object, those of hooks included.
pub async fn template(namespace: &str, values: &Value) -> anyhow::Result<Manifests> {
    Manifests::parse(&template_text(namespace, values).await?)
}

/// The same as a text.
pub async fn template_text(namespace: &str, values: &Value) -> anyhow::Result<String> {
    let folder = Folder::new()?;
    let file = folder.write("values.yaml", values.to_string())?;
    let mut command = helm(folder.path())?;
    command.args(["template", "ensign"]).arg(chart());
    command.args(["--namespace", namespace, "--values"]).arg(file);
    let text = said(&mut command).await;
    folder.discard();
    text
}

/// Renders plain manifests as `make manifests` does, into a folder: templates of these names, by a file of values.
pub async fn plain_manifests(values: &Path, folder: &Path, names: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(program("manifests")?);
    command.arg(chart()).arg(values).arg("ensign-system").arg(folder);
    said(command.args(names)).await.map(drop)
}

/// A YAML text as JSON.
pub fn yaml(text: &str) -> anyhow::Result<Value> {
    serde_saphyr::from_str(text).context("not YAML")
}

fn helm(folder: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(program("helm")?);
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, folder.join("helm"));
    }
    Ok(command)
}

/// What a program printed; its complaint, if it failed.
async fn said(command: &mut Command) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, stderr } = command.output().await.context("cannot be started")?;
    if !status.success() {
        bail!(
            "{status}: {}{}",
            String::from_utf8_lossy(&stderr),
            String::from_utf8_lossy(&stdout)
        );
    }
    String::from_utf8(stdout).context("not a text")
}

// === impl Helm ===

impl Helm {
    /// As the administrator of a cluster.
    pub fn of(access: &Access) -> anyhow::Result<Self> {
        Ok(Self {
            kubeconfig: access.admin_kubeconfig(),
            folder: Folder::new()?,
        })
    }

    /// Runs it.
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = helm(self.folder.path())?;
        command.env("KUBECONFIG", &self.kubeconfig).args(args);
        said(&mut command).await
    }

    /// `helm install`, or `upgrade`, of the chart with these values.
    pub async fn apply(&self, verb: &str, namespace: &str, values: &Value) -> anyhow::Result<String> {
        self.apply_with(verb, namespace, values, &[]).await
    }

    /// The same with these flags.
    pub async fn apply_with(
        &self,
        verb: &str,
        namespace: &str,
        values: &Value,
        flags: &[&str],
    ) -> anyhow::Result<String> {
        let file = self.folder.write("values.yaml", values.to_string())?;
        let (chart, file) = (chart().display().to_string(), file.display().to_string());
        let mut args = vec![verb, "ensign", &chart, "--namespace", namespace, "--values", &file];
        args.extend(flags);
        self.run(&args).await
    }

    /// Removes its files.
    pub fn discard(self) {
        self.folder.discard();
    }
}
