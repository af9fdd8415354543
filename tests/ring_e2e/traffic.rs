//! Requests between two Envoys in pods of one signer, while something is done to their nodes: none of them may fail.
//!
//! Each request is a connection of its own with a full TLS handshake, so it meets the certificates of that moment. Afterwards
//! both Envoys still have the ones that they had, are connected to the agent that there is, and cost no other.

use std::time::Duration;

use anyhow::{Context, ensure};
use ensign_testbed::envoy::{EnvoySpec, Home};
use ensign_testbed::load::Load;
use ensign_testbed::wait::{PATIENCE, until};
use serde_json::json;

use crate::alone::Alone;
use crate::apart::answered;
use crate::mesh::Mesh;
use crate::pod::address;
use crate::workload::{Proxy, Workload, id};

/// Each of two workers sends some twenty requests in a second: enough to meet whatever lasts for longer than a moment, and few enough
/// for minutes beside other tests.
const PAUSE: Duration = Duration::from_millis(50);
/// Requests that must have been answered after all was over.
const AFTERWARDS: u64 = 40;

/// Two Envoys that talk.
pub(crate) struct Traffic {
    /// Where they are.
    pub(crate) place: String,
    envoys: [Proxy; 2],
    load: Load,
}

// === impl Traffic ===

impl Traffic {
    /// Between two pods of the first node.
    pub(crate) async fn alone(alone: &Alone) -> anyhow::Result<Self> {
        let place = alone.cluster.namespace("talks").await?;
        let workload = |name: &str| Workload::new(&place, name).attributes(json!({ "signer": "foo" }));
        let httpbin = alone.proxy(workload("httpbin"), EnvoySpec::serving).await?;
        let peer = address(&httpbin.pod, Home::INBOUND)?;
        let calling = |envoy: EnvoySpec| envoy.calling("httpbin", peer, &id(&place));
        let sleep = alone.proxy(workload("sleep"), calling).await?;
        Self::start(place, sleep, httpbin).await
    }

    /// From the first node to the second, by name.
    pub(crate) async fn between_nodes(mesh: &Mesh) -> anyhow::Result<Self> {
        let place = mesh.namespace_with("talks", "foo").await?;
        let workload = |name: &str| Workload::new(&place, name).attributes(json!({ "signer": "foo" }));
        let httpbin = mesh.proxy(workload("httpbin").on("node2"), EnvoySpec::serving).await?;
        let host = format!("httpbin.{place}.svc.cluster.local");
        let calling = |envoy: EnvoySpec| envoy.calling_by_name("httpbin", &host, 80, &id(&place));
        let sleep = mesh.proxy(workload("sleep").on("node1"), calling).await?;
        Self::start(place, sleep, httpbin).await
    }

    async fn start(place: String, sleep: Proxy, httpbin: Proxy) -> anyhow::Result<Self> {
        let first = answered(&sleep, 0).await?;
        ensure!(first.status.is_success(), "{} {}", first.status, first.body);
        let load = Load::paced(address(&sleep.pod, Home::OUTBOUND)?, 2, PAUSE);
        let envoys = [sleep, httpbin];
        Ok(Self { place, envoys, load })
    }

    /// Fails at once if a request has failed; `when` says in what.
    pub(crate) fn flows(&self, when: &str) -> anyhow::Result<()> {
        let report = self.load.report();
        report.check_flawless().with_context(|| when.to_owned())
    }

    /// Ends it: no request failed, and none shows another certificate than before. `issued` counts what the RA gave to a namespace.
    pub(crate) async fn finish(self, issued: impl FnOnce(&str) -> usize) -> anyhow::Result<()> {
        for envoy in &self.envoys {
            until("an Envoy to be back at its agent", PATIENCE, async || {
                let stats = envoy.admin.stats().await?;
                let streams = stats.matching("sds-grpc;.upstream_rq_active");
                ensure!(streams.values().sum::<u64>() >= 2, "its streams are {streams:?}");
                Ok(())
            })
            .await?;
        }
        let so_far = self.load.report().ok;
        until("requests afterwards", PATIENCE, async || {
            let more = self.load.report().ok - so_far;
            ensure!(more >= AFTERWARDS, "{more} requests");
            Ok(())
        })
        .await?;
        let report = self.load.stop().await;
        report.check_flawless()?;
        let (client, server) = (&report.client_serials, &report.server_serials);
        ensure!(
            client.len() == 1 && server.len() == 1,
            "certificates changed: {client:?} and {server:?}"
        );
        let issued = issued(&self.place);
        ensure!(issued == 2, "{issued} certificates for two Envoys");
        Ok(())
    }
}
