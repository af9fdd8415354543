//! An agent with a folder of its own, a fake authority and a workloads file that tests rewrite.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ensign_agent::app;
use ensign_agent::config::{self, Request};
use ensign_testkit::metrics::{Answer, Metrics, get};
use ensign_testkit::{FakeEnvoy, FakeRa, TestCa, eventually, patience};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running agent.
pub(crate) struct Agent {
    pub(crate) ra: FakeRa,
    pub(crate) folder: TempDir,
    pub(crate) admin: std::net::SocketAddr,
    pub(crate) status: std::net::SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The folder before the agent starts: roots, a token, a workloads file.
pub(crate) async fn prepared(ra: &FakeRa, workloads: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    tokio::fs::write(folder.path().join("root.pem"), ra.serving_root_pem())
        .await
        .unwrap();
    tokio::fs::write(folder.path().join("token"), "a.test.token")
        .await
        .unwrap();
    replace(folder.path(), &list(folder.path(), workloads)).await;
    folder
}

/// Flags for an agent in this folder.
pub(crate) fn flags(ra: &FakeRa, folder: &Path) -> Vec<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    [
        "ensign-agent".to_owned(),
        format!("--ca-addr=127.0.0.1:{}", ra.address().port()),
        format!("--ca-root-ca={}", path("root.pem")),
        format!("--workloads-file={}", path("workloads.yaml")),
        "--admin-addr=127.0.0.1:0".to_owned(),
        "--status-addr=127.0.0.1:0".to_owned(),
        format!("--addresses-file={}", path("addresses.json")),
        "--fetch-floor=0s".to_owned(),
    ]
    .to_vec()
}

/// Binds an agent, or says why it cannot be.
pub(crate) async fn bind(ra: &FakeRa, folder: &Path) -> anyhow::Result<app::Bound> {
    match config::load(flags(ra, folder))? {
        Request::Run(config) => app::bind(*config).await,
        Request::Print(_) | Request::Command(_) => anyhow::bail!("printing was not asked for"),
    }
}

/// A workloads file with these names; `NAME@SIGNER` fixes a signer.
pub(crate) fn list(folder: &Path, workloads: &[&str]) -> String {
    let mut text = "apiVersion: ensign.mesh/v1\nworkloads:\n".to_owned();
    if workloads.is_empty() {
        return "apiVersion: ensign.mesh/v1\nworkloads: []\n".to_owned();
    }
    for workload in workloads {
        let (name, signer) = workload.split_once('@').unwrap_or((workload, ""));
        let folder = folder.display();
        let _ = writeln!(
            text,
            "- name: {name}\n  namespace: foo\n  serviceAccount: {name}\n  tokenFile: {folder}/token\n  socket: {folder}/{name}.sock"
        );
        if !signer.is_empty() {
            let _ = writeln!(text, "  signer: {signer}");
        }
    }
    text
}

/// Puts a workloads file in place as editors do.
pub(crate) async fn replace(folder: &Path, text: &str) {
    let new = folder.join(".workloads.new");
    tokio::fs::write(&new, text).await.unwrap();
    tokio::fs::rename(&new, folder.join("workloads.yaml")).await.unwrap();
}

impl Agent {
    pub(crate) async fn start(workloads: &[&str]) -> Self {
        let ra = FakeRa::start(TestCa::new("mesh")).await;
        let folder = prepared(&ra, workloads).await;
        let bound = bind(&ra, folder.path()).await.unwrap();
        let (admin, status, stop) = (bound.admin, bound.status, bound.stop_token());
        let task = tokio::spawn(bound.run(None));
        Self {
            ra,
            folder,
            admin,
            status,
            stop,
            task,
        }
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.sock"))
    }

    pub(crate) async fn list(&self, workloads: &[&str]) {
        replace(self.folder.path(), &list(self.folder.path(), workloads)).await;
    }

    pub(crate) async fn envoy(&self, name: &str) -> FakeEnvoy {
        eventually("the socket", async || FakeEnvoy::connect(self.socket(name)).await).await
    }

    /// Its certificate chain, as a new Envoy gets it.
    pub(crate) async fn certificate(&self, name: &str) -> String {
        let mut stream = self.envoy(name).await.subscribe(&["default"]).await;
        let secret = stream.next_secret(patience()).await;
        ensign_testkit::fake_envoy::certificate(&secret).unwrap().0
    }

    pub(crate) async fn page(&self, path: &str) -> Answer {
        get(self.admin, path, None).await.unwrap()
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::scrape(self.admin).await.unwrap()
    }

    pub(crate) async fn status_json(&self) -> Value {
        let answer = get(self.status, "/status", Some("application/json")).await.unwrap();
        serde_json::from_str(&answer.body).unwrap()
    }

    /// The workloads that the status names.
    pub(crate) async fn workloads(&self) -> Vec<String> {
        let status = self.status_json().await;
        let name = |workload: &Value| workload["workload"].as_str().unwrap().to_owned();
        status["workloads"].as_array().unwrap().iter().map(name).collect()
    }

    /// Waits until the status names exactly these workloads.
    pub(crate) async fn serves(&self, names: &[&str]) {
        let wanted: Vec<_> = names.iter().map(|name| format!("fixed/{name}")).collect();
        eventually("the workloads", async || {
            let seen = self.workloads().await;
            if seen == wanted {
                Ok(())
            } else {
                Err(format!("{seen:?}, expected {wanted:?}"))
            }
        })
        .await;
    }

    /// Sockets in the agent's folder.
    pub(crate) async fn sockets(&self) -> usize {
        let mut entries = tokio::fs::read_dir(self.folder.path()).await.unwrap();
        let mut count = 0;
        while let Some(entry) = entries.next_entry().await.unwrap() {
            use std::os::unix::fs::FileTypeExt as _;
            count += usize::from(entry.file_type().await.unwrap().is_socket());
        }
        count
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        self.folder
    }
}
