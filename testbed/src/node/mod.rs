//! A real node: containerd and kubelet in namespaces of their own, so that manifests run as they are, on paths of the node's own.
//!
//! Everything of a node ends with its first process (it is PID 1 of its own processes), its links with its network; what it
//! leaves in the machine are empty control groups, which [`Node::finish`] removes. Needs root, and containerd, runc and
//! the CNI plugins as Debian has them (`testbed/tools/node.sh`).

mod files;
mod image;
mod relay;

pub use self::{
    image::{AGENT, GUEST},
    relay::Relay,
};

use std::{
    fs::File,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use rustix::fs::FlockOperation;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    cluster::Access,
    folder::Folder,
    process::{Program, Spec, own_binary},
    wait::{self, PATIENCE},
};

/// A running node.
pub struct Node {
    name: String,
    init: Program,
    slot: Slot,
    api: Relay,
    folder: Folder,
}

/// A number that no other node of this machine has, and the addresses that follow from it.
#[derive(Debug)]
struct Slot {
    number: u8,
    _lock: File,
}

// === impl Node ===

impl Node {
    /// Starts a node of this name and waits until it is ready. It knows the images of the guest and the agent.
    pub async fn start(cluster: &Access, name: &str) -> anyhow::Result<Self> {
        needs()?;
        let slot = Slot::take()?;
        let folder = Folder::new()?;
        image::guest(folder.path()).await?;
        image::program(folder.path(), "ensign-agent", AGENT, &own_binary("ensign-agent")?).await?;
        write(&folder, "containerd.toml", &files::containerd(folder.path()))?;
        write(
            &folder,
            "cni/pods.conflist",
            &format!("{:#}", files::network(&slot.pods())),
        )?;
        write(&folder, "client-ca.pem", cluster.ca_pem())?;
        let kubelet = files::kubelet(&folder.join("client-ca.pem"), &slot.cgroup(), slot.address());
        write(&folder, "kubelet.yaml", &format!("{kubelet:#}"))?;
        write(&folder, "init.sh", include_str!("init.sh"))?;
        slot.make_cgroups()?;

        let init = Program::start(init(&folder, name, &slot), folder.path())?;
        slot.connect(first_process(&init).await?).await?;
        let api = Relay::start(slot.gateway(), cluster.server()).await?;
        let user = format!("system:node:{name}");
        let config = cluster.kubeconfig_of_user(&user, Some("system:nodes"))?;
        write(&folder, "kubelet.kubeconfig", &through(&config, &api)?)?;
        let node = Self {
            name: name.to_owned(),
            init,
            slot,
            api,
            folder,
        };
        node.ready(cluster).await?;
        Ok(node)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path of the node, as the machine sees it. Only below the folders that are the node's own.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path.trim_start_matches('/'))
    }

    /// Brings a port of the machine to where the node's pods can reach it.
    pub async fn relay(&self, target: std::net::SocketAddr) -> anyhow::Result<Relay> {
        Relay::start(self.slot.gateway(), target).await
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

    /// Runs a command in the node's namespaces; gives what it printed.
    pub async fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let pid = first_process(&self.init).await?.to_string();
        let output = Command::new("nsenter")
            .args(["--target", &pid, "--mount", "--net", "--pid", "--"])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .await
            .context("cannot run nsenter")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{command:?} ended with {}:\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Ends it and removes what it left.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        self.init.kill().await?;
        drop(self.api);
        self.slot.remove_cgroups().await?;
        self.folder.discard();
        Ok(())
    }

    /// The last lines of kubelet's log, for error texts.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("kubelet.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
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
        .with_context(|| format!("kubelet's last lines:\n{}", self.tail()))?;
        // The API server taints a new node; the controller that would take that back is not part of the test bed.
        let untainted = Patch::Merge(json!({ "spec": { "taints": null } }));
        nodes.patch(&self.name, &PatchParams::default(), &untainted).await?;
        Ok(())
    }
}

// === impl Slot ===

impl Slot {
    fn take() -> anyhow::Result<Self> {
        for number in 1..=200 {
            let path = std::env::temp_dir().join(format!("ensign-node-{number}.lock"));
            let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("200 nodes run on this machine already")
    }

    fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.number, 1)
    }

    fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.number, 2)
    }

    fn pods(&self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    fn cgroup(&self) -> String {
        format!("/ensign-node-{}", self.number)
    }

    /// A link between the machine and the node. It goes with the node's network.
    async fn connect(&self, pid: u32) -> anyhow::Result<()> {
        let link = format!("ensign{}", self.number);
        let pid = pid.to_string();
        let (gateway, address) = (format!("{}/30", self.gateway()), self.address().to_string());
        ip(&[
            "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid,
        ])
        .await?;
        ip(&["address", "add", &gateway, "dev", &link]).await?;
        ip(&["link", "set", &link, "up"]).await?;
        ip(&["route", "add", &self.pods(), "via", &address]).await
    }

    /// kubelet wants its root to be there, in every hierarchy, with processors and memory.
    fn make_cgroups(&self) -> anyhow::Result<()> {
        for hierarchy in hierarchies()? {
            let group = hierarchy.join(self.cgroup().trim_start_matches('/'));
            std::fs::create_dir_all(&group).with_context(|| format!("cannot make {}", group.display()))?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(text) = std::fs::read_to_string(hierarchy.join(file)) {
                    std::fs::write(group.join(file), text.trim()).with_context(|| format!("cannot set {file}"))?;
                }
            }
        }
        Ok(())
    }

    async fn remove_cgroups(&self) -> anyhow::Result<()> {
        // runc makes one in the empty cgroup2, too.
        for hierarchy in folders("/sys/fs/cgroup")? {
            let group = hierarchy.join(self.cgroup().trim_start_matches('/'));
            wait::until("the node's control groups to be empty", PATIENCE, async || {
                remove_deepest_first(&group).with_context(|| format!("{}", group.display()))
            })
            .await?;
        }
        Ok(())
    }
}

/// A control group's files go with its folder.
fn remove_deepest_first(group: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_deepest_first(&entry.path())?;
        }
    }
    std::fs::remove_dir(group)
}

fn hierarchies() -> anyhow::Result<Vec<PathBuf>> {
    // cgroup2 without controllers holds nothing for kubelet.
    let mut found = folders("/sys/fs/cgroup")?;
    found.retain(|path| path.join("tasks").is_file() && !path.is_symlink());
    ensure!(
        !found.is_empty(),
        "no cgroup v1 hierarchy in /sys/fs/cgroup: this test bed knows no other yet"
    );
    Ok(found)
}

fn folders(path: &str) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(path).with_context(|| format!("no {path}"))?;
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    Ok(paths.filter(|path| path.is_dir()).collect())
}

fn needs() -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a node needs root: namespaces, mounts, control groups"
    );
    for program in ["/usr/bin/containerd", "/usr/sbin/runc", "/usr/lib/cni/bridge"] {
        ensure!(
            Path::new(program).is_file(),
            "{program} is not there: run testbed/tools/node.sh"
        );
    }
    Ok(())
}

fn init(folder: &Folder, name: &str, slot: &Slot) -> Spec {
    let text = |path: &Path| path.display().to_string();
    let kubelet = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/kubernetes/bin");
    let flags = [
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child=KILL",
        "--propagation=private",
    ];
    let program = ["/bin/sh".to_owned(), text(&folder.join("init.sh"))];
    let args = [
        text(folder.path()),
        name.to_owned(),
        slot.address().to_string(),
        slot.gateway().to_string(),
        text(&kubelet),
    ];
    Spec {
        name: format!("{name}-init"),
        binary: PathBuf::from("/usr/bin/unshare"),
        args: flags
            .map(str::to_owned)
            .into_iter()
            .chain(program)
            .chain(args)
            .collect(),
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

/// The same kubeconfig through a relay. The certificate is for the address behind it.
fn through(kubeconfig: &str, relay: &Relay) -> anyhow::Result<String> {
    let mut config: Value = serde_json::from_str(kubeconfig).context("not a kubeconfig of ours")?;
    let cluster = &mut config["clusters"][0]["cluster"];
    cluster["server"] = json!(format!("https://{}", relay.address()));
    cluster["tls-server-name"] = json!("kubernetes");
    Ok(format!("{config:#}\n"))
}

fn write(folder: &Folder, name: &str, text: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    let parent = path.parent().context("a file has a folder")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

async fn ip(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(args).output().await.context("cannot run ip")?;
    ensure!(
        output.status.success(),
        "ip {args:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
