//! `make cluster` and `make cluster-down`, without a terminal.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context, ensure};
use ensign_testbed::{cluster::unique, http, process::own_binary, wait::PATIENCE};
use hyper::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
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
    let kubeconfig = timeout(PATIENCE * 3, async {
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

/// What a person would type, from a script: our RA is there with the rights of deploy/optional/rbac.yaml, and Envoys of foo and bar have
/// certificates that it issued; foo talks to foo, and not to bar.
#[tokio::test]
async fn a_script_in_its_shell_meets_workloads_of_two_signers() -> anyhow::Result<()> {
    let mut session = Command::new(own_binary("ensign-cluster")?)
        .args(["--name", &unique("script"), "--shell"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = session.stdin.take().context("no input")?;
    let mut lines = BufReader::new(session.stdout.take().context("no output")?).lines();
    let script = "kubectl -n ensign-system rollout status deployment/ensign-ra --timeout=2m
        kubectl -n ensign-system logs -l app.kubernetes.io/name=ensign-ra --tail=-1 | grep '\"certificate issued\"'
        kubectl get certificatesigningrequests -o name | sed 's/^/left: /'
        echo KUBECONFIG=$KUBECONFIG
        echo HTTPBIN=$HTTPBIN
        echo RATINGS=$RATINGS
        echo said\n";
    input.write_all(script.as_bytes()).await?;
    let mut said = Vec::new();
    timeout(PATIENCE * 3, async {
        while let Some(line) = lines.next_line().await? {
            if line == "said" {
                return Ok(());
            }
            said.push(line);
        }
        anyhow::bail!("it ended early: {said:#?}")
    })
    .await??;

    for (namespace, account, signer) in [
        ("foo", "httpbin", "foo"),
        ("foo", "sleep", "foo"),
        ("bar", "ratings", "bar"),
    ] {
        let events = said.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut of_workload =
            events.filter(|event| event["namespace"] == namespace && event["service_account"] == account);
        let event = of_workload
            .next()
            .with_context(|| format!("nothing of {account}: {said:#?}"))?;
        assert_eq!(event["signer"], signer, "{event}");
    }
    ensure!(!said.iter().any(|line| line.starts_with("left: ")), "{said:#?}");
    let variable = |name: &str| {
        let found = said.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.with_context(|| format!("no {name} in {said:#?}"))
    };
    let status = async |url: &str| -> anyhow::Result<u16> {
        let peer = url.trim_start_matches("http://").trim_end_matches('/').parse()?;
        let answer = http::request(peer, Method::GET, "/", &[]).await?;
        Ok(answer.status.as_u16())
    };
    assert_eq!(status(variable("HTTPBIN")?).await?, 200);
    assert_eq!(
        status(variable("RATINGS")?).await?,
        503,
        "foo does not trust the signer of bar"
    );

    input.write_all(b"exit\n").await?;
    let folder = PathBuf::from(variable("KUBECONFIG")?);
    let folder = folder.parent().context("a folder")?;
    let ended = timeout(PATIENCE, session.wait()).await??;
    ensure!(ended.success(), "{ended}");
    assert_eq!(processes_of(folder), Vec::<String>::new());
    ensure!(!folder.exists(), "its files are gone");
    Ok(())
}
