//! A node that outlives its agent: one folder and one fake authority, on which agents start, stop and start again.

use std::path::PathBuf;

use ensign_agent::app;
use ensign_agent::config::{self, Config, Request};
use ensign_testkit::fake_ra::{RaOutcome, Recorded};
use ensign_testkit::metrics::Metrics;
use ensign_testkit::{FakeEnvoy, FakeRa, Script, TestCa, eventually};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::{flags, prepared};

/// The node.
pub(crate) struct Node {
    pub(crate) ra: FakeRa,
    pub(crate) folder: TempDir,
    flags: Vec<String>,
    adjust: fn(&mut Config),
    running: Option<Running>,
}

struct Running {
    admin: std::net::SocketAddr,
    status: std::net::SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The id of a workload of this name.
pub(crate) fn id(name: &str) -> String {
    format!("spiffe://cluster.local/ns/foo/sa/{name}")
}

impl Node {
    /// A node with an agent that has these flags on top of the usual ones. `{}` in a flag is the node's folder.
    pub(crate) async fn start(workloads: &[&str], more_flags: &[&str]) -> Self {
        Self::start_adjusted(workloads, more_flags, |_| {}).await
    }

    /// As [`Node::start`], with settings that have no flag.
    pub(crate) async fn start_adjusted(workloads: &[&str], more_flags: &[&str], adjust: fn(&mut Config)) -> Self {
        let mut node = Self::prepared(workloads, more_flags).await;
        node.adjust = adjust;
        node.resume().await;
        node
    }

    /// The same without an agent yet.
    pub(crate) async fn prepared(workloads: &[&str], more_flags: &[&str]) -> Self {
        let ca = TestCa::new("mesh");
        let root = ca.root_pem();
        let ra = FakeRa::start(ca).await;
        let folder = prepared(&ra, workloads).await;
        tokio::fs::write(folder.path().join("mesh-root.pem"), root)
            .await
            .unwrap();
        let mut flags = flags(&ra, folder.path());
        let place = folder.path().display().to_string();
        for flag in more_flags {
            let name = flag.split_once('=').map_or(*flag, |(name, _)| name);
            flags.retain(|known| known.split_once('=').is_none_or(|(known, _)| known != name));
            flags.push(flag.replace("{}", &place));
        }
        Self {
            ra,
            folder,
            flags,
            adjust: |_| {},
            running: None,
        }
    }

    /// Binds an agent without running it: the error is what a start would say.
    pub(crate) async fn bind(&self) -> anyhow::Result<app::Bound> {
        match config::load(&self.flags)? {
            Request::Run(mut config) => {
                (self.adjust)(&mut config);
                app::bind(*config).await
            }
            Request::Print(_) | Request::Command(_) => anyhow::bail!("printing was not asked for"),
        }
    }

    /// Starts an agent where there is none.
    pub(crate) async fn resume(&mut self) {
        assert!(self.running.is_none());
        let bound = self.bind().await.unwrap();
        self.running = Some(Running {
            admin: bound.admin,
            status: bound.status,
            stop: bound.stop_token(),
            task: tokio::spawn(bound.run(None)),
        });
    }

    /// Stops the agent; the node stays.
    pub(crate) async fn pause(&mut self) {
        let running = self.running.take().unwrap();
        running.stop.cancel();
        running.task.await.unwrap().unwrap();
    }

    /// Stops the agent and starts another.
    pub(crate) async fn restart(&mut self) {
        self.pause().await;
        self.resume().await;
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.sock"))
    }

    /// The agent's command line, program first.
    pub(crate) fn flags(&self) -> &[String] {
        &self.flags
    }

    pub(crate) async fn envoy(&self, name: &str) -> FakeEnvoy {
        eventually("the socket", async || FakeEnvoy::connect(self.socket(name)).await).await
    }

    /// What the authority does with this workload's requests, from now on apart from all others.
    pub(crate) fn script(&self, name: &str) -> Script<RaOutcome> {
        self.ra.script_of(&id(name))
    }

    /// The requests for this workload.
    pub(crate) fn requests(&self, name: &str) -> Vec<Recorded> {
        self.ra.requests_of(&id(name))
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::scrape(self.running.as_ref().unwrap().admin).await.unwrap()
    }

    /// How often a secret of this workload was sent.
    pub(crate) async fn pushes(&self, name: &str, secret: &str) -> f64 {
        let uid = format!("fixed/{name}");
        let labels = [("workload", uid.as_str()), ("name", secret)];
        let metrics = self.metrics().await;
        metrics.sum("ensign_agent_sds_pushes_total", &labels).unwrap_or(0.0)
    }

    /// The status of a workload's first certificate; null if it has none.
    pub(crate) async fn certificate(&self, name: &str) -> Value {
        let uid = format!("fixed/{name}");
        let answer = ensign_testkit::metrics::get(
            self.running.as_ref().unwrap().status,
            "/status",
            Some("application/json"),
        );
        let status: Value = serde_json::from_str(&answer.await.unwrap().body).unwrap();
        let workloads = status["workloads"].as_array().unwrap();
        let found = workloads.iter().find(|workload| workload["workload"] == uid);
        found.map_or(Value::Null, |workload| workload["certificates"][0].clone())
    }

    /// Waits until the workload's status has this in this field (a JSON pointer).
    pub(crate) async fn until(&self, name: &str, field: &str, wanted: impl Into<Value>) -> Value {
        let wanted = wanted.into();
        eventually(&format!("{field} of {name} to be {wanted}"), async || {
            let certificate = self.certificate(name).await;
            if certificate.pointer(field) == Some(&wanted) {
                Ok(certificate)
            } else {
                Err(certificate)
            }
        })
        .await
    }
}
