//! An RA as a process on the cluster of the bench, with the rights of `deploy/optional/rbac.yaml` and nothing more.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use ensign_testbed::folder::Folder;
use ensign_testbed::http;
use ensign_testbed::process::{Program, Spec, own_binary};
use ensign_testbed::wait::{PATIENCE, until};
use tokio::time::timeout;

use super::bed::{self, Bed};
use crate::issue::Request;
use crate::issue::client::{Outcome, Question};
use crate::peer::Peer;

/// A running RA, and a client of it.
pub(super) struct Authority {
    program: Program,
    addresses: BTreeMap<String, SocketAddr>,
    folder: Folder,
    client: Peer,
}

// === impl Authority ===

impl Authority {
    /// Starts one that judges tokens in this way (`--authn`), and waits until it is ready.
    pub(super) async fn start(bed: &Bed, authn: &str) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let kubeconfig = bed.cluster.kubeconfig_of_service_account(bed::OWN, "ensign-ra").await?;
        folder.write("kubeconfig", kubeconfig)?;
        // In a folder of its own: the RA looks at the folder again for each line of its log.
        let policy = folder.write("policy/policy.yaml", bed.policy(&folder)?)?;
        let path = |name: &str| folder.join(name).display().to_string();
        let flags = [
            ("--kubeconfig", path("kubeconfig")),
            ("--policy-file", policy.display().to_string()),
            ("--authn", authn.to_owned()),
            ("--own-namespace", bed::OWN.to_owned()),
            ("--istio-namespace", bed::ISTIO.to_owned()),
            ("--leader-election-namespace", bed::OWN.to_owned()),
            ("--root-configmaps", "off".to_owned()),
            ("--serving-ca-dir", path("serving-ca")),
            ("--serving-root-file", path("ra-root.pem")),
            ("--grpc-addr", "127.0.0.1:0".to_owned()),
            ("--readyz-addr", "127.0.0.1:0".to_owned()),
            ("--metrics-addr", "127.0.0.1:0".to_owned()),
            ("--addresses-file", path("addresses")),
            ("--log-format", "json".to_owned()),
        ];
        let spec = Spec {
            name: "ra".to_owned(),
            binary: own_binary("ensign-ra")?,
            args: flags
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value])
                .collect(),
            env: BTreeMap::new(),
        };
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs)?;
        let mut program = Program::start(spec, &logs)?;
        let addresses = program.addresses(&folder.join("addresses")).await?;
        let authority = Self {
            program,
            addresses,
            folder,
            client: Peer::start("client-requests")?,
        };
        until("the RA to be ready", PATIENCE, async || {
            http::get(authority.address("readyz")?, "/readyz").await.map(drop)
        })
        .await?;
        Ok(authority)
    }

    /// Has each of these certificates issued.
    pub(super) async fn serve(&mut self, in_flight: usize, requests: Vec<Request>) -> anyhow::Result<Outcome> {
        let prepare = Question::Prepare {
            address: self.address("grpc")?,
            root: self.root(),
            requests,
        };
        let _: Option<Outcome> = self.client.ask(&prepare).await?;
        let asked = timeout(ROUND, self.client.ask(&Question::Once { in_flight })).await;
        let outcome: Option<Outcome> = asked
            .context("the RA does not answer")
            .and_then(|outcome| outcome)
            .with_context(|| format!("the last lines of the RA's log:\n{}", self.program.log().tail()))?;
        outcome.context("the client measured nothing")
    }

    /// Its process.
    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        self.program.pid()
    }

    /// The process of its client.
    pub(super) fn client_pid(&self) -> anyhow::Result<u32> {
        self.client.pid()
    }

    /// The value of one series of its metrics.
    pub(super) async fn metric(&self, series: &str) -> anyhow::Result<Option<u64>> {
        let metrics = http::get(self.address("metrics")?, "/metrics").await?;
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.map(str::parse).transpose()?)
    }

    /// Ends it as an operator would.
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        drop(self.client);
        let status = self.program.terminate().await?;
        ensure!(
            status.success(),
            "the RA ended with {status}; its last lines:\n{}",
            self.program.log().tail()
        );
        self.folder.discard();
        Ok(())
    }

    fn address(&self, name: &str) -> anyhow::Result<SocketAddr> {
        let address = self.addresses.get(name).copied();
        address.with_context(|| format!("the RA has no address {name}"))
    }

    fn root(&self) -> PathBuf {
        self.folder.join("ra-root.pem")
    }
}

/// A round that takes so long has stopped.
const ROUND: Duration = Duration::from_mins(2);
