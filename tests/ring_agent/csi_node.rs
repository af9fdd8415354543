//! A node with a kubelet, on which agents start, live side by side and stop.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ensign_agent::app;
use ensign_agent::config::{self, Config, Request};
use ensign_testkit::fake_envoy::certificate;
use ensign_testkit::metrics::{Metrics, get};
use ensign_testkit::{FakeEnvoy, FakeRa, TestCa, eventually, patience};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use ensign_testkit::kubelet::{Kubelet, Pod};

/// Silence cannot be waited for as an event; what would come, comes in a fraction of this.
pub(crate) const A_WHILE: Duration = Duration::from_secs(1);

/// The node. Most of its questions go to the youngest agent.
pub(crate) struct Node {
    pub(crate) ra: FakeRa,
    pub(crate) folder: TempDir,
    pub(crate) kubelet: Kubelet,
    flags: Vec<String>,
    adjust: fn(&mut Config),
    /// The oldest first.
    agents: VecDeque<Agent>,
}

struct Agent {
    admin: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Node {
    /// With one agent that kubelet has taken up.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more flags for the agents.
    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let mut node = Self::without_agent(flags).await;
        node.resume().await;
        node.kubelet.register().await;
        node
    }

    /// With settings that no flag has.
    pub(crate) async fn start_adjusted(adjust: fn(&mut Config)) -> Self {
        let mut node = Self::without_agent(&[]).await;
        node.adjust = adjust;
        node.resume().await;
        node.kubelet.register().await;
        node
    }

    pub(crate) async fn without_agent(flags: &[&str]) -> Self {
        let ra = FakeRa::start(TestCa::new("mesh")).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("root.pem"), ra.serving_root_pem()).unwrap();
        Self {
            kubelet: Kubelet::new(folder.path().join("kubelet")),
            ra,
            folder,
            flags: flags.iter().map(ToString::to_string).collect(),
            adjust: |_| {},
            agents: VecDeque::new(),
        }
    }

    /// One more agent.
    pub(crate) async fn resume(&mut self) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let flags = [
            "ensign-agent".to_owned(),
            "--source=csi".to_owned(),
            "--node-name=node1".to_owned(),
            format!("--kubelet-dir={}", path("kubelet")),
            format!("--state-dir={}", path("state")),
            format!("--ca-addr=127.0.0.1:{}", self.ra.address().port()),
            format!("--ca-root-ca={}", path("root.pem")),
            "--admin-addr=127.0.0.1:0".to_owned(),
            "--status-addr=127.0.0.1:0".to_owned(),
            "--fetch-floor=0s".to_owned(),
        ];
        let Request::Run(mut config) = config::load(flags.iter().chain(&self.flags)).unwrap() else {
            panic!("printing was not asked for")
        };
        (self.adjust)(&mut config);
        let bound = app::bind(*config).await.unwrap();
        self.agents.push_back(Agent {
            admin: bound.admin,
            stop: bound.stop_token(),
            task: tokio::spawn(bound.run(None)),
        });
    }

    /// Stops the oldest agent.
    pub(crate) async fn pause(&mut self) {
        self.stopping();
        self.stopped().await;
    }

    /// As SIGTERM does to the oldest agent.
    pub(crate) fn stopping(&self) {
        self.agents[0].stop.cancel();
    }

    /// Waits for its end.
    pub(crate) async fn stopped(&mut self) {
        self.agents.pop_front().unwrap().task.await.unwrap().unwrap();
    }

    /// Stops the youngest agent.
    pub(crate) async fn pause_youngest(&mut self) {
        let youngest = self.agents.pop_back().unwrap();
        youngest.stop.cancel();
        youngest.task.await.unwrap().unwrap();
    }

    /// The oldest agent's metrics.
    pub(crate) fn oldest(&self) -> SocketAddr {
        self.agents[0].admin
    }

    fn admin(&self) -> SocketAddr {
        self.agents.back().unwrap().admin
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::scrape(self.admin()).await.unwrap()
    }

    pub(crate) async fn volumes(&self) -> Option<f64> {
        self.metrics().await.sum("ensign_agent_csi_volumes", &[])
    }

    pub(crate) async fn ready(&self) -> (u16, String) {
        let answer = get(self.admin(), "/readyz", None).await.unwrap();
        (answer.status, answer.body)
    }

    pub(crate) fn socket(&self, pod: &Pod) -> PathBuf {
        self.kubelet.mount(pod).join("ensign.sock")
    }

    /// A certificate chain, as the pod's Envoy gets it.
    pub(crate) async fn certificate(&self, pod: &Pod) -> String {
        let mut stream = envoy(&self.socket(pod)).await.subscribe(&["default"]).await;
        certificate(&stream.next_secret(patience()).await).unwrap().0
    }

    /// What a successor would read; nothing if there is no volume.
    pub(crate) fn state(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("state/csi.json")).unwrap_or_default()
    }
}

/// Connects as soon as somebody listens.
pub(crate) async fn envoy(path: &Path) -> FakeEnvoy {
    eventually("the socket", async || FakeEnvoy::connect(path).await).await
}

pub(crate) fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/foo/sa/{account}")
}
