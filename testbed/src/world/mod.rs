//! One small mesh in one folder: token issuer, policy, workloads, the RA and an agent per node.
//!
//! What it holds is `spec`'s, what that means in files and flags is `files`'. Files are written before the programs start
//! and may be rewritten while they run ([`World::write_policy`], [`World::write_workloads`]). Envoys are started by the
//! scenarios, with the sockets and ids from here. With a [`ClusterPlace`] the tokens are a cluster's, and so are the
//! signers and the policy that the RA finds there.

mod files;
mod spec;

pub use self::spec::{ClusterPlace, Rule, Signer, Workload, WorldSpec};

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, ensure};
use ensign_testkit::tokens::{self, TokenMint};
use serde_json::Value;

use crate::{
    envoy::{Envoy, EnvoySpec},
    folder::Folder,
    http,
    process::Program,
    serial,
    wait::{self, PATIENCE},
};

/// The running mesh.
pub struct World {
    folder: Arc<Folder>,
    spec: WorldSpec,
    tokens: TokenMint,
    ra: Program,
    ra_addresses: BTreeMap<String, SocketAddr>,
    agents: Vec<Agent>,
}

/// The agent of one node.
#[derive(Debug)]
struct Agent {
    program: Program,
    addresses: BTreeMap<String, SocketAddr>,
    addresses_file: PathBuf,
}

// === impl World ===

impl World {
    /// Writes all files, starts the RA, then the agent.
    pub async fn start(spec: WorldSpec) -> anyhow::Result<Self> {
        Self::start_in(Arc::new(Folder::new()?), spec).await
    }

    /// The same in a folder that the caller removes.
    pub async fn start_in(folder: Arc<Folder>, spec: WorldSpec) -> anyhow::Result<Self> {
        let tokens = TokenMint::rs256("test-key");
        folder.write("jwks.json", tokens::jwks(&[&tokens]))?;
        files::plug_in_cas(&folder, &spec)?;
        files::write_cluster(&folder, &spec)?;
        files::write_policy(&folder, &spec)?;
        files::write_workloads(&folder, &tokens, &spec)?;

        let logs = spec
            .logs
            .as_ref()
            .map_or(folder.path().to_owned(), |name| folder.join(name));
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let mut ra = Program::start(files::ra(&folder, &spec)?, &logs)?;
        let ra_addresses = ra.addresses(&folder.join("ra.addresses")).await?;
        let grpc = ra_addresses
            .get("grpc")
            .copied()
            .context("the RA's addresses file names no `grpc`")?;
        let mut agents = Vec::with_capacity(spec.nodes());
        for node in 0..spec.nodes() {
            let mut program = Program::start(files::agent(&folder, &spec, node, grpc)?, &logs)?;
            let addresses_file = folder.join(&files::agent_addresses(node));
            let addresses = program.addresses(&addresses_file).await?;
            agents.push(Agent {
                program,
                addresses,
                addresses_file,
            });
        }
        Ok(Self {
            folder,
            spec,
            tokens,
            ra,
            ra_addresses,
            agents,
        })
    }

    /// Ends all programs as an operator would, checks that they ended well, and removes the folder.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        let agents = self.agents.iter_mut().map(|agent| &mut agent.program);
        for program in agents.chain([&mut self.ra]) {
            if program.pid().is_ok() {
                let status = program.terminate().await?;
                ensure!(
                    status.success(),
                    "ended with {status} after SIGTERM; its last lines:\n{}",
                    program.log().tail()
                );
            }
        }
        self.folder.discard();
        Ok(())
    }

    /// The world's files.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The RA.
    pub fn ra(&mut self) -> &mut Program {
        &mut self.ra
    }

    /// The agent of the first node.
    pub fn agent(&mut self) -> &mut Program {
        self.agent_on(0)
    }

    /// The agent of a node.
    pub fn agent_on(&mut self, node: usize) -> &mut Program {
        &mut self.agents[node].program
    }

    /// An address of the RA: `grpc`, `readyz`, `metrics`.
    pub fn ra_address(&self, name: &str) -> anyhow::Result<SocketAddr> {
        self.ra_addresses
            .get(name)
            .copied()
            .with_context(|| format!("the RA has no address {name}"))
    }

    /// An address of the first node's agent: `admin`, `status`.
    pub fn agent_address(&self, name: &str) -> anyhow::Result<SocketAddr> {
        self.agents[0]
            .addresses
            .get(name)
            .copied()
            .with_context(|| format!("the agent has no address {name}"))
    }

    /// Starts the first node's agent again after its end and reads its new addresses.
    pub async fn restart_agent(&mut self) -> anyhow::Result<()> {
        let agent = &mut self.agents[0];
        drop(std::fs::remove_file(&agent.addresses_file));
        agent.program.restart()?;
        agent.addresses = agent.program.addresses(&agent.addresses_file).await?;
        Ok(())
    }

    /// Starts the RA again after its end, on the port that the agent knows.
    pub async fn restart_ra(&mut self) -> anyhow::Result<()> {
        let file = self.folder.join("ra.addresses");
        drop(std::fs::remove_file(&file));
        let grpc = self.ra_address("grpc")?.to_string();
        let args = &mut self.ra.spec_mut().args;
        if let Some(value) = args
            .iter()
            .position(|arg| arg == "--grpc-addr")
            .and_then(|flag| args.get_mut(flag + 1))
        {
            *value = grpc;
        }
        self.ra.restart()?;
        self.ra_addresses = self.ra.addresses(&file).await?;
        Ok(())
    }

    /// What the world holds; change it, then write the file that it belongs to.
    pub fn spec_mut(&mut self) -> &mut WorldSpec {
        &mut self.spec
    }

    /// Rewrites the policy file from [`World::spec_mut`].
    pub fn write_policy(&self) -> anyhow::Result<()> {
        files::write_policy(&self.folder, &self.spec)
    }

    /// Rewrites the workloads files from [`World::spec_mut`], with a token for each workload.
    pub fn write_workloads(&self) -> anyhow::Result<()> {
        files::write_workloads(&self.folder, &self.tokens, &self.spec)
    }

    /// Gives the agents the root of the RA's serving certificate, as a mounted ConfigMap does.
    pub fn give_root(&self, pem: &str) -> anyhow::Result<()> {
        self.folder.write(files::ROOT, pem).map(drop)
    }

    /// The socket of a workload.
    pub fn socket(&self, workload: &str) -> PathBuf {
        files::socket(&self.folder, workload)
    }

    /// The id of a workload.
    pub fn id(&self, workload: &str) -> anyhow::Result<String> {
        let found = self.workload(workload)?;
        Ok(format!(
            "spiffe://cluster.local/ns/{}/sa/{}",
            found.namespace, found.name
        ))
    }

    /// An Envoy of a workload, whose wish is the signer named as its namespace.
    pub fn envoy(&self, workload: &str) -> anyhow::Result<EnvoySpec> {
        let found = self.workload(workload)?;
        Ok(EnvoySpec::new(&found.name, &found.namespace, &found.name, self.socket(workload)).signer(&found.namespace))
    }

    /// Starts an Envoy in the world's folder.
    pub async fn start_envoy(&self, spec: EnvoySpec) -> anyhow::Result<Envoy> {
        Envoy::start(spec, self.folder.path()).await
    }

    /// Serials of all certificates that the agents have got for a workload, oldest first, by its log.
    pub fn issued(&self, workload: &str) -> Vec<String> {
        let uid = format!("fixed/{workload}");
        let lines = self.agents.iter().flat_map(|agent| agent.program.log().lines());
        let events = lines.filter(|line| line.contains("certificate issued"));
        let events = events.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        events
            .filter(|event| event["message"] == "certificate issued" && event["workload"] == uid.as_str())
            .filter_map(|event| event["serial"].as_str().map(serial::normal))
            .collect()
    }

    /// Waits until its agent has got at least this many certificates for a workload.
    pub async fn issued_at_least(&self, workload: &str, count: usize) -> anyhow::Result<Vec<String>> {
        wait::until(
            &format!("certificate {count} of {workload}"),
            PATIENCE * 2,
            async || {
                let issued = self.issued(workload);
                ensure!(issued.len() >= count, "{} so far", issued.len());
                Ok(issued)
            },
        )
        .await
        .with_context(|| format!("the agents' last lines:\n{}", self.tails()))
    }

    /// The agent's status as JSON.
    pub async fn status(&self) -> anyhow::Result<Value> {
        let body = http::get(self.agent_address("status")?, "/status?format=json").await?;
        serde_json::from_str(&body).context("the agent's status is no JSON")
    }

    fn tails(&self) -> String {
        self.agents
            .iter()
            .map(|agent| agent.program.log().tail())
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn workload(&self, name: &str) -> anyhow::Result<&Workload> {
        self.spec
            .workloads
            .iter()
            .find(|workload| workload.name == name)
            .with_context(|| format!("no workload {name}"))
    }
}
