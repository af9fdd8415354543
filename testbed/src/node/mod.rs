//! A real node: containerd, kubelet and kube-proxy in namespaces of their own, so that manifests run as they are, on paths of
//! the node's own.
//!
//! Everything of a node ends with its first process (it is PID 1 of its own processes), which ends with the driver; its
//! link ends with its network. What it leaves in the machine are empty control groups, which [`Node::finish`] removes.
//! Needs root, and what `testbed/tools/node.sh` installs. Nodes of one [`Network`] reach each other's pods.

mod cgroups;
mod files;
mod images;
mod network;
mod relay;

pub(crate) use self::images::COREDNS;
pub use self::{
    images::{ENVOY, GUEST, Images, build_guest},
    network::Network,
    relay::Relay,
};

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::process::Command;

use self::network::Place;
use crate::{
    cluster::Access,
    folder::write_atomically,
    page::Printed,
    process::{Program, Spec},
    wait::{self, PATIENCE},
};

/// Holds the first process of a node, as the machine counts.
const PID: &str = "pid";

/// What a node needs of the machine.
const NEEDED: [&str; 8] = [
    "/usr/bin/containerd",
    "/usr/bin/nsenter",
    "/usr/bin/setpriv",
    "/usr/bin/unshare",
    "/usr/lib/cni/host-local",
    "/usr/lib/cni/ptp",
    "/usr/sbin/nft",
    "/usr/sbin/runc",
];

/// A running node of one's own.
pub struct Node {
    access: NodeAccess,
    /// Until it is ended.
    init: Option<Program>,
    place: Place,
}

/// The way into a running node, one's own or another process's.
#[derive(Debug, Clone)]
pub struct NodeAccess {
    name: String,
    folder: PathBuf,
    pid: u32,
}

// === impl Node ===

impl Node {
    /// Starts the node of this index (from 0) of a network, under this name, with its files in `folder`; waits until it is
    /// ready. Call it from the test's own task: its programs end with the thread that started them.
    pub async fn start(
        cluster: &Access,
        network: &Network,
        index: usize,
        name: &str,
        images: &Images,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        needs()?;
        let place = network.place(index)?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (file, text) in settings(cluster, network, place, name, folder)? {
            write_atomically(&folder.join(file), text.as_bytes())?;
        }
        cgroups::make(&place.cgroup())?;

        let init = Program::start(init(folder, images, name, place), folder)?;
        let pid = first_process(&init).await?;
        place.connect(pid)?;
        write_atomically(&folder.join(PID), pid.to_string().as_bytes())?;
        let access = NodeAccess::open(folder)?;
        let node = Self {
            access,
            init: Some(init),
            place,
        };
        node.ready(cluster).await?;
        Ok(node)
    }

    /// Ends it and removes what it left, but for its folder.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        if let Some(mut init) = self.init.take() {
            init.kill().await?;
        }
        cgroups::remove(&self.place.cgroup()).await
    }

    async fn ready(&self, cluster: &Access) -> anyhow::Result<()> {
        let nodes = Api::<KubeNode>::all(cluster.admin());
        wait::until(&format!("node {} to be ready", self.name), PATIENCE * 2, async || {
            let node = nodes.get(&self.name).await.context("not there")?;
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
            let ready = ready.context("no condition yet")?;
            ensure!(ready.status == "True", "{:?}", ready.message);
            Ok(())
        })
        .await
        .with_context(|| format!("kubelet's last lines:\n{}", self.tail("kubelet")))?;
        // The API server taints a new node; the controller that would take that back is not part of the test bed.
        let untainted = Patch::Merge(json!({ "spec": { "taints": null } }));
        nodes.patch(&self.name, &PatchParams::default(), &untainted).await?;
        Ok(())
    }
}

impl Deref for Node {
    type Target = NodeAccess;

    fn deref(&self) -> &NodeAccess {
        &self.access
    }
}

impl Drop for Node {
    /// What it has on disk of containers and images is large, and tells nobody why a test failed.
    fn drop(&mut self) {
        drop(self.init.take());
        drop(std::fs::remove_dir_all(self.path("/var/lib/containerd")));
    }
}

// === impl NodeAccess ===

impl NodeAccess {
    /// Into the node whose files are in `folder`.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let name = folder.file_name().and_then(|name| name.to_str()).context("no name")?;
        let pid = std::fs::read_to_string(folder.join(PID));
        let pid = pid.with_context(|| format!("no node in {}", folder.display()))?;
        Ok(Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            pid: pid.parse().context("not a process id")?,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path of the node, as the machine sees it. Only below the folders that are the node's own.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path.trim_start_matches('/'))
    }

    /// Ends a program of the node that has this name, as `kill -9` would, and waits until nothing of it is open: a socket
    /// of a dying process still lets in. It is started again.
    pub async fn kill(&self, program: &str) -> anyhow::Result<()> {
        // Among the node's own processes only: it has its own /proc.
        let script = "killed=1
            for process in /proc/[0-9]*; do
                if [ \"$(cat \"$process/comm\" 2>/dev/null)\" = \"$1\" ]; then
                    kill -KILL \"${process#/proc/}\" && killed=0
                    while [ -n \"$(ls \"$process/fd\" 2>/dev/null)\" ]; do sleep 0.01; done
                fi
            done
            exit $killed";
        self.run(&["/bin/sh", "-c", script, "kill", program]).await.map(drop)
    }

    /// Stops a program in its tracks (SIGSTOP): to whoever waits for it, it is away.
    pub async fn pause(&self, program: &str) -> anyhow::Result<()> {
        self.signal(program, "STOP").await
    }

    /// Lets it go on.
    pub async fn resume(&self, program: &str) -> anyhow::Result<()> {
        self.signal(program, "CONT").await
    }

    async fn signal(&self, program: &str, signal: &str) -> anyhow::Result<()> {
        let processes = self.processes(program).await?;
        ensure!(!processes.is_empty(), "{program} does not run on {}", self.name);
        let mut command = vec!["/bin/kill".to_owned(), "-s".to_owned(), signal.to_owned()];
        command.extend(processes.iter().map(u32::to_string));
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        self.run(&command).await.map(drop)
    }

    /// Runs a command in the node's namespaces; gives what it printed.
    pub async fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let printed = self.try_run(command).await?;
        ensure!(printed.success, "{command:?} failed:\n{}{}", printed.out, printed.err);
        Ok(printed.out)
    }

    /// The same, and it may fail.
    pub async fn try_run(&self, command: &[&str]) -> anyhow::Result<Printed> {
        let output = Command::new("nsenter")
            .args(["--target", &self.pid.to_string(), "--mount", "--net", "--pid", "--"])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .await
            .context("cannot run nsenter")?;
        Ok(Printed::from(output))
    }

    /// Runs a command in a container, as `kubectl exec` does; gives what it printed. `id` is what the pod's status calls it.
    pub async fn run_in(&self, id: &str, command: &[&str]) -> anyhow::Result<String> {
        let words = in_container(id, command);
        self.run(&words.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// The same, and it may fail.
    pub async fn try_run_in(&self, id: &str, command: &[&str]) -> anyhow::Result<Printed> {
        let words = in_container(id, command);
        self.try_run(&words.iter().map(String::as_str).collect::<Vec<_>>())
            .await
    }

    /// The processes of this name, as the node counts them.
    pub async fn processes(&self, name: &str) -> anyhow::Result<Vec<u32>> {
        let script = "for process in /proc/[0-9]*; do
                if [ \"$(cat \"$process/comm\" 2>/dev/null)\" = \"$1\" ]; then echo \"${process#/proc/}\"; fi
            done";
        let text = self.run(&["/bin/sh", "-c", script, "processes", name]).await?;
        let numbers = text.lines().map(|line| line.parse().context("not a process id"));
        numbers.collect()
    }

    /// The last lines of a program's log (`containerd`, `kubelet`, `kube-proxy`), for error texts.
    pub fn tail(&self, program: &str) -> String {
        let text = std::fs::read_to_string(self.folder.join(format!("{program}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

fn in_container(id: &str, command: &[&str]) -> Vec<String> {
    let process = format!("ensign-{:016x}", fastrand::u64(..));
    let client = [
        "ctr",
        "--address",
        "/run/containerd/containerd.sock",
        "--namespace",
        "k8s.io",
    ];
    let exec = [
        "tasks",
        "exec",
        "--exec-id",
        &process,
        id.trim_start_matches("containerd://"),
    ];
    let words = client.iter().chain(&exec).chain(command);
    words.map(|&word| word.to_owned()).collect()
}

fn needs() -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a node needs root: namespaces, mounts, control groups"
    );
    for program in NEEDED {
        ensure!(Path::new(program).is_file(), "{program} is not there: run `make node`");
    }
    Ok(())
}

/// The files that the node's programs read.
fn settings(
    cluster: &Access,
    network: &Network,
    place: Place,
    name: &str,
    folder: &Path,
) -> anyhow::Result<Vec<(&'static str, String)>> {
    let kubelet = files::kubelet(&folder.join("client-ca.pem"), &place.cgroup(), place.address());
    let user = format!("system:node:{name}");
    let kubelet_user = cluster.kubeconfig_of_user(&user, Some("system:nodes"))?;
    let proxy_user = cluster.kubeconfig_of_user("system:kube-proxy", None)?;
    Ok(vec![
        ("containerd.toml", files::containerd(folder)),
        ("cni/pods.conflist", format!("{:#}", files::network(&place.pods()))),
        ("client-ca.pem", cluster.ca_pem().to_owned()),
        ("kubelet.yaml", format!("{kubelet:#}")),
        ("kubelet.kubeconfig", through(&kubelet_user, network)?),
        ("kube-proxy.kubeconfig", through(&proxy_user, network)?),
        ("init.sh", include_str!("init.sh").to_owned()),
    ])
}

fn init(folder: &Path, images: &Images, name: &str, place: Place) -> Spec {
    let text = |path: &Path| path.display().to_string();
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/kubernetes/bin");
    let namespaces = [
        // Nothing outlives the driver, however that ends.
        "--pdeathsig=KILL",
        "/usr/bin/unshare",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child=KILL",
        "--propagation=private",
        "/bin/sh",
    ];
    let mut args: Vec<String> = namespaces.map(str::to_owned).to_vec();
    args.extend([
        text(&folder.join("init.sh")),
        text(folder),
        text(images.folder()),
        name.to_owned(),
        place.address().to_string(),
        place.gateway().to_string(),
        text(&programs),
    ]);
    for (range, address) in place.routes() {
        args.extend([range, address.to_string()]);
    }
    Spec {
        name: "init".to_owned(),
        binary: PathBuf::from("/usr/bin/setpriv"),
        args,
        env: [("HOME".to_owned(), "/root".to_owned())].into(),
    }
}

/// The child of `unshare`, as the machine counts.
async fn first_process(init: &Program) -> anyhow::Result<u32> {
    let pid = init.pid()?;
    let path = format!("/proc/{pid}/task/{pid}/children");
    wait::until("the node's first process", PATIENCE, async || {
        let text = std::fs::read_to_string(&path).with_context(|| format!("no {path}"))?;
        text.split_whitespace()
            .next()
            .context("none yet")?
            .parse()
            .context("not a process id")
    })
    .await
}

/// The same kubeconfig by the network's way to the API server. The certificate is for the address behind it.
fn through(kubeconfig: &str, network: &Network) -> anyhow::Result<String> {
    let mut config: Value = serde_json::from_str(kubeconfig).context("not a kubeconfig of ours")?;
    let cluster = &mut config["clusters"][0]["cluster"];
    cluster["server"] = json!(format!("https://{}", network.api()));
    cluster["tls-server-name"] = json!("kubernetes");
    Ok(format!("{config:#}\n"))
}
