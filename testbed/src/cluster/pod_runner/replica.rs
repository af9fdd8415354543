//! One pod as one process.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use http::Method;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::{
    parts::{self, container},
    status::{self, State},
};
use crate::{
    cluster::Access,
    folder::write_atomically,
    http as client,
    process::{Log, Program, Spec, own_binary},
};

/// The RA's ports: what the manifest says, the flag that moves it, and its name in the addresses file.
const PORTS: [(i32, &str, &str); 3] = [
    (6443, "--grpc-addr", "grpc"),
    (6060, "--readyz-addr", "readyz"),
    (9402, "--metrics-addr", "metrics"),
];
/// A kubelet takes up to a minute and more; nobody relies on that.
const REFILL: Duration = Duration::from_secs(2);
/// Tokens are renewed long before their end, as a kubelet does.
const NEW_TOKEN: Duration = Duration::from_mins(20);

pub(super) struct Replica {
    folder: PathBuf,
    program: Option<Program>,
    addresses: BTreeMap<String, SocketAddr>,
    restarts: u32,
    /// What the API server knows of it.
    said: Option<State>,
    filled: Option<Instant>,
    token: Option<Instant>,
}

// === impl Replica ===

impl Replica {
    /// Its files are with the cluster's, and go with them.
    pub(super) fn new(access: &Access, pod: &Pod) -> anyhow::Result<Self> {
        container(pod)?;
        let folder = access.folder().join("pods").join(pod.name_any());
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self {
            folder,
            program: None,
            addresses: BTreeMap::new(),
            restarts: 0,
            said: None,
            filled: None,
            token: None,
        })
    }

    /// Where it answers, once its probe says that it does.
    pub(super) fn ready_grpc(&self) -> Option<SocketAddr> {
        let ready = matches!(self.said, Some(State::Running { ready: true, .. }));
        self.addresses.get("grpc").copied().filter(|_| ready)
    }

    pub(super) fn log(&self) -> Option<Log> {
        self.program.as_ref().map(|program| program.log().clone())
    }

    /// Starts what is to run, and says how it is. What cannot be done yet is told in the pod's status, as a kubelet tells it.
    pub(super) async fn look(&mut self, access: &Access, pod: &Pod) {
        let state = match self.step(access, pod).await {
            Ok(Ok(state)) => state,
            Ok(Err(why)) => State::Waiting(why),
            Err(error) => State::Waiting(format!("{error:#}")),
        };
        if self.said.as_ref() != Some(&state) && status::write(access, pod, &state, &address_of(pod)).await {
            self.said = Some(state);
        }
    }

    async fn step(&mut self, access: &Access, pod: &Pod) -> anyhow::Result<Result<State, String>> {
        if let Err(why) = self.fill(access, pod).await? {
            return Ok(Err(why));
        }
        if let Err(why) = self.run(access, pod).await? {
            return Ok(Err(why));
        }
        Ok(Ok(State::Running {
            ready: self.is_ready(container(pod)?).await,
            restarts: self.restarts,
        }))
    }

    /// SIGTERM, and waits.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(program) = &mut self.program
            && !program.has_ended()
        {
            program.terminate().await?;
        }
        Ok(())
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.folder.join("volumes").join(name)
    }

    /// Volumes as they are now; a running process sees changes.
    async fn fill(&mut self, access: &Access, pod: &Pod) -> anyhow::Result<Result<(), String>> {
        let now = Instant::now();
        if self.filled.is_some_and(|last| now < last + REFILL) {
            return Ok(Ok(()));
        }
        let renew = self.token.is_none_or(|last| now > last + NEW_TOKEN);
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes.filter(|volume| renew || volume.projected.is_none()) {
            let container = container(pod)?;
            let here = |text: &str| self.here(container, text);
            match parts::fill(access, pod, volume, &self.volume(&volume.name), here).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return Ok(Err(why)),
                // The API server is away: what there is stays.
                Err(_) if self.program.is_some() => return Ok(Ok(())),
                Err(error) => return Err(error),
            }
        }
        self.filled = Some(now);
        if renew {
            self.token = Some(now);
        }
        Ok(Ok(()))
    }

    async fn run(&mut self, access: &Access, pod: &Pod) -> anyhow::Result<Result<(), String>> {
        if let Some(program) = &mut self.program {
            if program.has_ended() {
                self.restarts += 1;
                drop(std::fs::remove_file(self.folder.join("addresses")));
                self.addresses.clear();
                program.restart()?;
            }
        } else {
            let env = match parts::environment(access, pod, container(pod)?).await? {
                Ok(env) => env,
                Err(why) => return Ok(Err(why)),
            };
            self.program = Some(Program::start(self.spec(access, pod, env)?, &self.folder)?);
        }
        if self.addresses.is_empty()
            && let Ok(text) = std::fs::read_to_string(self.folder.join("addresses"))
        {
            self.addresses = serde_json::from_str(&text).context("not an addresses file")?;
        }
        Ok(Ok(()))
    }

    fn spec(&self, access: &Access, pod: &Pod, env: BTreeMap<String, String>) -> anyhow::Result<Spec> {
        let container = container(pod)?;
        let kubeconfig = access.kubeconfig_with_token_file(&self.token_file(pod)?);
        let place = self.folder.join("kubeconfig");
        write_atomically(&place, kubeconfig.as_bytes())?;
        let path = |path: &Path| path.display().to_string();
        let ours = [
            format!("--kubeconfig={}", path(&place)),
            format!("--addresses-file={}", path(&self.folder.join("addresses"))),
        ];
        let ports = PORTS.map(|(_, flag, _)| format!("{flag}=127.0.0.1:0"));
        let said = container.args.iter().flatten().map(|arg| self.here(container, arg));
        let env = env
            .into_iter()
            .map(|(name, value)| (name, self.here(container, &value)));
        Ok(Spec {
            name: pod.name_any(),
            binary: own_binary("ensign-ra")?,
            args: said.chain(ours).chain(ports).collect(),
            env: env.collect(),
        })
    }

    /// Where the token for the API server is, of which a program in a pod knows by itself.
    fn token_file(&self, pod: &Pod) -> anyhow::Result<PathBuf> {
        const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
        let mounts = container(pod)?.volume_mounts.iter().flatten();
        let mut found = mounts.filter(|mount| mount.mount_path == PLACE);
        let mount = found
            .next()
            .with_context(|| format!("{} mounts no token", pod.name_any()))?;
        Ok(self.volume(&mount.name).join("token"))
    }

    /// A text with the paths of volumes as they are here: of an argument, a variable or a file.
    fn here(&self, container: &Container, text: &str) -> String {
        let mounts = container.volume_mounts.iter().flatten();
        mounts.fold(text.to_owned(), |text, mount| {
            text.replace(&mount.mount_path, &self.volume(&mount.name).display().to_string())
        })
    }

    async fn is_ready(&self, container: &Container) -> bool {
        let probe = container
            .readiness_probe
            .as_ref()
            .and_then(|probe| probe.http_get.as_ref());
        let address = probe.and_then(|probe| {
            let named = container.ports.iter().flatten().find(|port| match &probe.port {
                k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(number) => {
                    port.container_port == *number
                }
                k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(name) => {
                    port.name.as_ref() == Some(name)
                }
            })?;
            let (_, _, name) = PORTS.iter().find(|(number, _, _)| *number == named.container_port)?;
            Some((*self.addresses.get(*name)?, probe.path.as_deref().unwrap_or("/")))
        });
        match address {
            Some((address, path)) => client::request(address, Method::GET, path, &[])
                .await
                .is_ok_and(|answer| answer.status.is_success()),
            None => false,
        }
    }
}

/// An address that nobody has, another for each pod: the API server takes none of loopback.
fn address_of(pod: &Pod) -> String {
    let uid = pod.uid().unwrap_or_default();
    let hash = uid
        .bytes()
        .fold(0_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let [_, _, a, b] = hash.to_be_bytes();
    format!("10.1.{a}.{b}")
}
