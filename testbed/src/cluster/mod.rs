//! A real Kubernetes with a real cert-manager: control plane only, no nodes' programs, ready in seconds.
//!
//! [`Cluster::start`] gives a cluster of one's own, whose components may be killed, paused and started again.
//! What is in it is made through [`Access`], to which [`Cluster`] derefs. Each program has its own file in `component`,
//! objects for tests are `objects`', requests are counted by `audit`. The programs themselves are built by
//! `testbed/kubernetes/build.sh`.

mod access;
pub mod admission_hook;
mod apply;
mod audit;
mod authority;
mod cert_manager;
mod compaction;
mod component;
pub mod deploy;
pub mod instant_signer;
mod istio;
mod kubeconfig;
mod meeting;
mod objects;
mod options;
mod pod_runner;
mod port;
mod session;
mod shared;
mod tls;
mod town;

pub use self::{
    access::Access,
    apply::{apply, documents},
    audit::{Audit, Mark, Request, Requests, RequestsBy},
    authority::Credential,
    component::{Component, cert_manager::NAMESPACE as CERT_MANAGER_NAMESPACE},
    deploy::{Account, Manifests, Places, Right},
    objects::{IssuerRef, TokenOf, USAGES, issued, unique},
    options::ClusterOptions,
    pod_runner::PodRunner,
    session::{Offer, down, session},
    shared::{SharedCluster, supervise},
};

use std::{
    collections::BTreeMap,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::process::Command;

use self::{
    authority::Authority,
    component::{Ports, Surroundings, distribution},
};
use crate::{
    folder::Folder,
    process::{Log, Program},
    wait::{self, PATIENCE},
};

/// The program `kubectl`.
pub fn kubectl() -> anyhow::Result<PathBuf> {
    Ok(distribution()?.join("bin/kubectl"))
}

/// A running cluster of one's own.
pub struct Cluster {
    access: Access,
    options: ClusterOptions,
    programs: Mutex<BTreeMap<Component, Program>>,
    ports: Ports,
    folder: Arc<Folder>,
}

// === impl Cluster ===

impl Cluster {
    /// Starts one and waits until it answers, cert-manager included. Call it from the test's own task: the programs end with the
    /// thread that started them.
    pub async fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        Self::start_in(Arc::new(Folder::new()?), options).await
    }

    /// The same in a folder that the caller holds, too: it is removed with the last of both.
    pub async fn start_in(folder: Arc<Folder>, options: ClusterOptions) -> anyhow::Result<Self> {
        let ports = Ports::hold()?;
        let authority = prepare(folder.path(), options.cert_manager, &ports).await?;
        let access = Access::new(folder.path(), ports.api_server.address(), authority).await?;
        let cluster = Self {
            access,
            options,
            programs: Mutex::default(),
            ports,
            folder,
        };
        // The API server waits for etcd by itself; so does the webhook for the API server.
        cluster.launch(Component::Etcd)?;
        cluster.launch(Component::ApiServer)?;
        if cluster.options.cert_manager {
            cluster.launch(Component::CertManagerWebhook)?;
        }
        cluster.ready().await?;
        cluster.launch(Component::ControllerManager)?;
        if cluster.options.scheduler {
            cluster.launch(Component::Scheduler)?;
        }
        if cluster.options.cert_manager {
            cert_manager::install(&cluster.access).await?;
            cluster.launch(Component::CertManager)?;
            cert_manager::register_webhook(&cluster.access, cluster.ports.webhook.address()).await?;
        }
        cluster.controllers_work().await?;
        Ok(cluster)
    }

    /// Waits until the API server says that it is ready.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let answer = wait::until("the API server to be ready", PATIENCE, async || {
            if let Some(tail) = self.ended(Component::ApiServer).or_else(|| self.ended(Component::Etcd)) {
                return Ok(Err(anyhow::anyhow!(tail)));
            }
            let request = http::Request::get("/readyz").body(Vec::new())?;
            self.access.admin().request_text(request).await.context("/readyz")?;
            Ok(Ok(()))
        });
        answer.await?
    }

    /// Waits until kube-controller-manager has given the default namespace its service account.
    async fn controllers_work(&self) -> anyhow::Result<()> {
        use k8s_openapi::api::core::v1::ServiceAccount;
        let accounts = kube::Api::<ServiceAccount>::namespaced(self.access.admin(), "default");
        let answer = wait::until("kube-controller-manager", PATIENCE, async || {
            if let Some(tail) = self.ended(Component::ControllerManager) {
                return Ok(Err(anyhow::anyhow!(tail)));
            }
            accounts.get("default").await.context("the default service account")?;
            Ok(Ok(()))
        });
        answer.await?
    }

    /// SIGKILL.
    pub async fn kill(&self, component: Component) -> anyhow::Result<()> {
        let mut program = self.take(component)?;
        let killed = program.kill().await;
        self.programs.lock().insert(component, program);
        killed
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(&self, component: Component) -> anyhow::Result<()> {
        let mut program = self.take(component)?;
        let ended = program.terminate().await;
        self.programs.lock().insert(component, program);
        ended.map(drop)
    }

    /// Stops it in its tracks (SIGSTOP): connections stay open, nobody answers. Returns once it stands still.
    pub async fn pause(&self, component: Component) -> anyhow::Result<()> {
        let pid = self.signal(component, Signal::STOP)?;
        // The thread that is to stop the others may be the last to get a processor.
        wait::until_true(&format!("{component} to stand still"), PATIENCE, async || {
            let tasks =
                std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("{component} has ended"))?;
            let mut states = tasks
                .flatten()
                .map(|task| std::fs::read_to_string(task.path().join("stat")));
            // `<id> (<name>) <state> …`; the name may hold anything. A thread that has just ended does nothing either.
            Ok(states.all(|stat| {
                stat.map_or(true, |stat| {
                    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
                })
            }))
        })
        .await
    }

    /// Lets it go on.
    pub fn resume(&self, component: Component) -> anyhow::Result<()> {
        self.signal(component, Signal::CONT).map(drop)
    }

    /// Starts it again after its end, with the same ports and data. Does not wait until it answers.
    pub fn restart(&self, component: Component) -> anyhow::Result<()> {
        let mut programs = self.programs.lock();
        match programs.get_mut(&component) {
            Some(program) => program.restart(),
            None => bail!("this cluster has no {component}"),
        }
    }

    /// The process ids of all components that run.
    pub fn pids(&self) -> Vec<u32> {
        let programs = self.programs.lock();
        programs.values().filter_map(|program| program.pid().ok()).collect()
    }

    /// What a component printed.
    pub fn log(&self, component: Component) -> anyhow::Result<Log> {
        let programs = self.programs.lock();
        let program = programs
            .get(&component)
            .with_context(|| format!("this cluster has no {component}"))?;
        Ok(program.log().clone())
    }

    /// Ends it and removes its folder. A cluster that is dropped without it leaves its logs behind.
    pub async fn finish(self) -> anyhow::Result<()> {
        let programs = std::mem::take(&mut *self.programs.lock());
        // Nothing of it is needed any more, so nothing has to end in order.
        for (component, mut program) in programs {
            if program.pid().is_ok() {
                program
                    .kill()
                    .await
                    .with_context(|| format!("{component} does not end"))?;
            }
        }
        self.folder.discard();
        Ok(())
    }

    fn launch(&self, component: Component) -> anyhow::Result<()> {
        let spec = component.spec(&Surroundings {
            folder: self.folder.path(),
            ports: &self.ports,
            options: &self.options,
        })?;
        let program = Program::start(spec, self.folder.path())?;
        self.programs.lock().insert(component, program);
        Ok(())
    }

    /// The last lines of a component that has ended, or nothing while it runs.
    fn ended(&self, component: Component) -> Option<String> {
        let mut programs = self.programs.lock();
        let program = programs.get_mut(&component)?;
        program
            .has_ended()
            .then(|| format!("{component} has ended; its last lines:\n{}", program.log().tail()))
    }

    fn take(&self, component: Component) -> anyhow::Result<Program> {
        self.programs
            .lock()
            .remove(&component)
            .with_context(|| format!("this cluster has no {component}, or another task ends it just now"))
    }

    /// Returns its process id.
    fn signal(&self, component: Component, signal: Signal) -> anyhow::Result<u32> {
        let programs = self.programs.lock();
        let program = programs
            .get(&component)
            .with_context(|| format!("this cluster has no {component}"))?;
        program.signal(signal)?;
        program.pid()
    }
}

impl Drop for Cluster {
    /// Kept logs do not need the store, which is a hundred times their size.
    fn drop(&mut self) {
        self.programs.lock().clear();
        drop(std::fs::remove_dir_all(self.folder.join("etcd")));
    }
}

impl Deref for Cluster {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.access
    }
}

/// Writes everything that the components read.
async fn prepare(folder: &Path, cert_manager: bool, ports: &Ports) -> anyhow::Result<Authority> {
    let pki = folder.join("pki");
    std::fs::create_dir_all(&pki).with_context(|| format!("cannot make {}", pki.display()))?;
    let authority = Authority::create(&pki)?;
    authority
        .server(&[
            "127.0.0.1",
            "localhost",
            "kubernetes",
            "kubernetes.default.svc",
            "10.96.0.1",
        ])?
        .write(&pki, "apiserver")?;
    authority.server(&["127.0.0.1"])?.write(&pki, "webhook")?;
    authority
        .user("kube-apiserver-kubelet-client", Some(access::ADMINS))?
        .write(&pki, "kubelet-client")?;
    std::fs::write(pki.join("service-accounts.key"), rsa_key().await?).context("cannot write a key")?;
    std::fs::write(folder.join("audit-policy.yaml"), component::AUDIT_POLICY)
        .context("cannot write the audit policy")?;
    let mut clients = vec![Component::ControllerManager, Component::Scheduler];
    if cert_manager {
        clients.extend([Component::CertManager, Component::CertManagerWebhook]);
    }
    for component in clients {
        if let Some((user, group)) = component.user() {
            let text = access::user_kubeconfig(ports.api_server.address(), &authority, user, group)?;
            std::fs::write(folder.join(format!("{component}.kubeconfig")), text)
                .context("cannot write a kubeconfig")?;
        }
    }
    Ok(authority)
}

/// Signs the service accounts' tokens: RSA, as in most clusters, and new, so that no other cluster's token fits.
async fn rsa_key() -> anyhow::Result<Vec<u8>> {
    let output = Command::new(distribution()?.join("bin/rsa-key"))
        .output()
        .await
        .context("cannot run rsa-key")?;
    ensure!(output.status.success(), "rsa-key ended with {}", output.status);
    Ok(output.stdout)
}
