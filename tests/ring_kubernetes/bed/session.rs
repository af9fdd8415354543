//! `make cluster` and `make cluster-down`, without a terminal.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context, ensure};
use ensign_testbed::{cluster::unique, process::own_binary, wait::PATIENCE};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

use super::processes_of;

#[tokio::test]
async fn a_person_gets_a_cluster_with_three_issuers_and_ends_it_from_elsewhere() -> anyhow::Result<()> {
    let name = unique("session");
    let program = own_binary("ensign-cluster")?;
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command
            .args(["--name", &name])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    };
    let mut session = command(&[]).spawn()?;
    let mut lines = BufReader::new(session.stdout.take().context("no output")?).lines();
    let kubeconfig = timeout(PATIENCE, async {
        while let Some(line) = lines.next_line().await? {
            if let Some((_, path)) = line.split_once("KUBECONFIG=") {
                return Ok(PathBuf::from(path));
            }
        }
        anyhow::bail!("it ended without a cluster")
    })
    .await??;

    let second = command(&[]).stderr(Stdio::piped()).output().await?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(!second.status.success() && said.contains("make cluster-down"), "{said}");

    let issuers = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/kubernetes/bin/kubectl"))
        .args(["--kubeconfig"])
        .arg(&kubeconfig)
        .args(["get", "clusterissuers", "--output", "name"])
        .env("HOME", kubeconfig.parent().context("a folder")?)
        .output()
        .await?;
    assert_eq!(
        String::from_utf8_lossy(&issuers.stdout),
        "clusterissuer.cert-manager.io/bar\nclusterissuer.cert-manager.io/foo\nclusterissuer.cert-manager.io/istio-system\n",
        "{issuers:?}"
    );

    let down = command(&["down"]).output().await?;
    ensure!(down.status.success(), "{down:?}");
    let status = timeout(PATIENCE, session.wait()).await??;
    ensure!(status.success(), "{status}");
    let folder = kubeconfig.parent().context("a folder")?;
    assert_eq!(processes_of(folder), Vec::<String>::new());
    ensure!(!folder.exists(), "its files are gone");
    Ok(())
}
