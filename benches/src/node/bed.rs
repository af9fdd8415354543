//! A node without containers: RA and agent as processes, and a kubelet that brings pods.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, anyhow};
use ensign_testbed::folder::Folder;
use ensign_testbed::process::{Program, Spec, own_binary};
use ensign_testbed::world::World;
use ensign_testkit::kubelet::{Kubelet, Pod};

use super::envoy::Envoy;
use crate::authority;

pub(super) struct Bed {
    /// The RA, and the accounts' tokens. Its own agent has no Envoy and rests.
    pub(super) world: World,
    pub(super) kubelet: Kubelet,
    /// The agent that kubelet calls.
    pub(super) agent: Program,
    pub(super) envoy: Envoy,
    folder: Folder,
    agents: usize,
    pods: AtomicUsize,
}

// === impl Bed ===

impl Bed {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let world = World::start(authority::world(ACCOUNTS, false)).await?;
        let folder = Folder::new()?;
        let kubelet = Kubelet::new(folder.join("k"));
        // What the agent writes lies in folders that are there before its fence.
        for name in ["state", "agents"] {
            std::fs::create_dir(folder.join(name))?;
        }
        let agent = start_agent(&world, &folder, 0).await?;
        kubelet.register().await;
        Ok(Self {
            world,
            kubelet,
            agent,
            envoy: Envoy::new()?,
            folder,
            agents: 1,
            pods: AtomicUsize::new(0),
        })
    }

    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        self.agent.terminate().await?;
        self.world.finish().await?;
        self.folder.discard();
        Ok(())
    }

    /// One more agent on the same node; gives the one before.
    pub(super) async fn succeed(&mut self) -> anyhow::Result<Program> {
        let next = start_agent(&self.world, &self.folder, self.agents).await?;
        self.agents += 1;
        self.kubelet.register().await;
        Ok(std::mem::replace(&mut self.agent, next))
    }

    /// A folder for what else runs here.
    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// A pod that was never there, of one of the accounts.
    pub(super) fn pod(&self) -> anyhow::Result<Pod> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        let account = authority::name(number % ACCOUNTS);
        let token = std::fs::read_to_string(self.world.folder().join(&format!("{account}.token")))?;
        // Short names: the path is a socket's address.
        let pod = Pod {
            uid: format!("p{number}"),
            namespace: authority::SIGNER.to_owned(),
            account,
            volume: "v".to_owned(),
            ..Pod::new(&format!("p{number}"))
        };
        Ok(pod.with("signer", authority::SIGNER).with_token(&token))
    }

    pub(super) fn socket(&self, pod: &Pod) -> PathBuf {
        self.kubelet.mount(pod).join("ensign.sock")
    }

    pub(super) async fn publish(&self, pod: &Pod) -> anyhow::Result<()> {
        let answer = self.kubelet.publish(pod).await;
        answer.map_err(|status| anyhow!("a publish was refused: {}", status.message()))
    }

    pub(super) async fn unpublish(&self, pods: &[Pod]) -> anyhow::Result<()> {
        for pod in pods {
            let answer = self.kubelet.unpublish(pod).await;
            answer.map_err(|status| anyhow!("an unpublish was refused: {}", status.message()))?;
        }
        Ok(())
    }

    /// From kubelet's call until the pod's Envoy has its certificate, in microseconds.
    pub(super) async fn first_secret(&self, pod: &Pod) -> anyhow::Result<u64> {
        let began = Instant::now();
        self.publish(pod).await?;
        self.envoy.secret(&self.socket(pod)).await.context("no first secret")?;
        Ok(u64::try_from(began.elapsed().as_micros())?)
    }
}

async fn start_agent(world: &World, folder: &Folder, number: usize) -> anyhow::Result<Program> {
    let path = |name: &str| folder.join(name).display().to_string();
    let addresses = folder.join(&format!("agents/{number}.addresses"));
    let args = [
        "--source=csi".to_owned(),
        "--node-name=node1".to_owned(),
        format!("--kubelet-dir={}", path("k")),
        format!("--state-dir={}", path("state")),
        "--admin-addr=127.0.0.1:0".to_owned(),
        "--status-addr=127.0.0.1:0".to_owned(),
        format!("--addresses-file={}", addresses.display()),
        "--log-format=json".to_owned(),
    ];
    let env = BTreeMap::from([
        ("CA_ADDR".to_owned(), world.ra_address("grpc")?.to_string()),
        (
            "CA_ROOT_CA".to_owned(),
            world.folder().join("ra-root.pem").display().to_string(),
        ),
        ("ISTIOD_SAN".to_owned(), "localhost".to_owned()),
    ]);
    let spec = Spec {
        name: format!("agent-{number}"),
        binary: own_binary("ensign-agent")?,
        args: args.to_vec(),
        env,
    };
    let mut agent = Program::start(spec, &folder.join("agents"))?;
    agent.addresses(&addresses).await?;
    Ok(agent)
}

/// More than the RA's limit for one caller would need with all volumes at once.
pub(super) const ACCOUNTS: usize = 128;
