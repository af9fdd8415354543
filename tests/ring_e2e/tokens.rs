//! Tokens of ten minutes, the shortest that the API server grants, and nobody who brings new ones: on one node kubelet is away, on
//! the other the API server and the RA are. What is in use stays in use, the agents say what is missing, and each node heals
//! by itself once it can.
//!
//! Ten minutes of it are waiting, so this runs beside other tests (`.config/nextest.toml`).

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use ensign_testbed::cluster::Component;
use ensign_testbed::node::NodeAccess;
use ensign_testbed::operator::Operator;
use ensign_testbed::wait::until;
use ensign_testkit::fake_envoy::{Silence, SotwStream};
use ensign_testkit::metrics::Metrics;
use ensign_testkit::patience;
use k8s_openapi::api::core::v1::Pod;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::alone::{Alone, PLACE, Wish};
use crate::pod::{self, address};
use crate::workload::Workload;

/// Seconds that a token lives.
const TOKENS: u32 = 600;
/// In which they have expired, however busy the machine is.
const EXPIRED: Duration = Duration::from_secs(900);
/// After failures kubelet tries a mount again after two minutes at most.
const KUBELETS_NEXT_TRY: Duration = Duration::from_secs(300);

/// One node, its agent, and an Envoy that holds a certificate there.
struct Side<'a> {
    alone: &'a Alone,
    node: &'a NodeAccess,
    agent: Pod,
    pod: String,
    mount: PathBuf,
    folder: u64,
    stream: SotwStream,
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_expire_while_nobody_brings_others_and_each_node_heals_by_itself() -> anyhow::Result<()> {
    let wish = Wish {
        second: true,
        tokens: Some(TOKENS),
        // Renewed after ten minutes, when the token has just expired or is about to.
        settings: [("SECRET_TTL", "20m"), ("SECRET_GRACE_PERIOD_RATIO_JITTER", "0.01")].into(),
    };
    let alone = Alone::start_with(wish).await?;
    let place = alone.cluster.namespace("foo").await?;
    let second = alone.second.as_deref().context("there is no second node")?;
    let mut without_kubelet = Side::start(&alone, &alone.node, "node1", &place).await?;
    let mut cut_off = Side::start(&alone, second, "node2", &place).await?;
    let issued = alone.issued(&place);
    ensure!(issued == 2, "{issued} certificates for two pods");

    alone.node.pause("kubelet").await?;
    alone.ra.signal(Signal::STOP)?;
    alone.cluster.kill(Component::ApiServer).await?;
    for side in [&mut without_kubelet, &mut cut_off] {
        side.says_that_the_token_expired().await?;
        side.keeps_what_it_has().await?;
    }

    // Whoever has a kubelet that reaches the API server again is well again; a kubelet that is away is missed all the same.
    alone.cluster.restart(Component::ApiServer)?;
    alone.cluster.ready().await?;
    alone.ra.signal(Signal::CONT)?;
    let before = without_kubelet.failures().await?;
    cut_off.heals().await?;
    let operator = Operator::new(&alone.cluster);
    operator.explained(&place, "node2", &["certificate"]).await?;
    until(
        "the agent without kubelet to miss it again",
        KUBELETS_NEXT_TRY,
        async || {
            let now = without_kubelet.failures().await?;
            ensure!(now > before, "{now} requests failed for want of a token, as before");
            Ok(())
        },
    )
    .await?;
    without_kubelet.keeps_what_it_has().await?;

    alone.node.resume("kubelet").await?;
    without_kubelet.heals().await?;
    operator.explained(&place, "node1", &["certificate"]).await?;
    let issued = alone.issued(&place);
    ensure!(issued == 4, "{issued} certificates for two pods, each renewed once");
    drop((without_kubelet, cut_off));
    alone.finish().await
}

// === impl Side ===

impl<'a> Side<'a> {
    /// A pod on this node, called as the node, and its certificate.
    async fn start(alone: &'a Alone, node: &'a NodeAccess, name: &'static str, place: &str) -> anyhow::Result<Self> {
        let workload = Workload::new(place, name).on(name);
        alone.make(&workload.attributes(json!({ "signer": "foo" }))).await?;
        let pod = alone.running(place, name).await?;
        let mut stream = alone.envoy(&pod).await?.subscribe(&["default"]).await;
        stream.next_secret(patience()).await;
        let mount = alone.mount(&pod)?;
        Ok(Self {
            alone,
            node,
            agent: alone.agent_on(node).await?,
            pod: name.to_owned(),
            folder: std::fs::metadata(&mount)?.ino(),
            mount,
            stream,
        })
    }

    /// In its log, in its series, and in its status.
    async fn says_that_the_token_expired(&self) -> anyhow::Result<()> {
        let logs = self.node.path("/var/log/pods");
        until(&format!("the agent of {} to say it", self.pod), EXPIRED, async || {
            let log = pod::printed(logs.clone(), PLACE, "ensign-agent");
            let said = log.lines().any(|line| {
                let words = ["\"WARN\"", "token expired at", "look whether kubelet runs"];
                words.iter().all(|word| line.contains(word))
            });
            ensure!(said, "{log}");
            Ok(())
        })
        .await?;
        ensure!(self.failures().await? > 0.0, "no series counts it");
        let error = &self.certificate().await?["lastError"];
        let message = error["message"].as_str().unwrap_or_default();
        ensure!(
            error["reason"] == "token" && message.contains("token expired at"),
            "its status says {error}"
        );
        Ok(())
    }

    /// The Envoy that is connected hears nothing, one that comes gets the same, and the folder is the same.
    async fn keeps_what_it_has(&mut self) -> anyhow::Result<()> {
        match self.stream.next(Duration::from_secs(1)).await {
            Err(Silence::Timeout) => {}
            other => anyhow::bail!("its Envoy was told {other:?}"),
        }
        let mut fresh = pod::envoy(&self.mount).await?.subscribe(&["default"]).await;
        fresh.next_secret(patience()).await;
        ensure!(
            fresh.held_version() == self.stream.held_version(),
            "a newcomer has another certificate"
        );
        let folder = std::fs::metadata(&self.mount)?.ino();
        ensure!(folder == self.folder, "the folder was made again");
        Ok(())
    }

    /// Another certificate, and no word of a failure.
    async fn heals(&mut self) -> anyhow::Result<()> {
        let held = self.stream.held_version().to_owned();
        let next = self.stream.next(KUBELETS_NEXT_TRY).await;
        let next = next.with_context(|| self.alone.log(PLACE, "ensign-agent"))?;
        ensure!(next.version != held, "it is the one that it had");
        self.stream.ack(&next).await;
        let certificate = self.certificate().await?;
        ensure!(
            certificate["lastError"] == Value::Null && certificate["state"] == "active",
            "its status says {certificate}"
        );
        let folder = std::fs::metadata(&self.mount)?.ino();
        ensure!(folder == self.folder, "the folder was made again");
        Ok(())
    }

    /// How many requests failed because there was no token.
    async fn failures(&self) -> anyhow::Result<f64> {
        let metrics = Metrics::scrape(address(&self.agent, 9402)?).await?;
        let labels = [("reason", "token")];
        Ok(metrics
            .sum("ensign_agent_request_failures_total", &labels)
            .unwrap_or_default())
    }

    /// What its status says of the pod's certificate. The API server is not asked.
    async fn certificate(&self) -> anyhow::Result<Value> {
        let status = self.alone.status(&self.agent).await?;
        Ok(status["workloads"][0]["certificates"][0].clone())
    }
}
