//! What the programs of a node read: containerd's and kubelet's settings, the pods' network.
//!
//! Each setting that is not obvious has its reason beside it; most were found by a program that did not start.

use std::{net::Ipv4Addr, path::Path};

use serde_json::{Value, json};

use super::images::GUEST;

/// `statfs` of an overlay file system.
const OVERLAY: i64 = 0x794c_7630;

/// containerd 1.6.
pub(super) fn containerd(folder: &Path) -> String {
    let cni = folder.join("cni");
    let snapshotter = snapshotter(folder);
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/{GUEST}"
  # Without CAP_SYS_RESOURCE runc cannot lower a score, and dies of it.
  restrict_oom_score_adj = true
  disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{snapshotter}"
  default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{}"
"#,
        cni.display()
    )
}

/// Overlays where the kernel has them and can lay one over this folder; copies work on any file system, and cost one of each
/// image for each container.
fn snapshotter(folder: &Path) -> &'static str {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known = known.lines().any(|line| line.ends_with("\toverlay"));
    let above_another = rustix::fs::statfs(folder).is_ok_and(|found| found.f_type == OVERLAY);
    if known && !above_another { "overlayfs" } else { "native" }
}

/// The pods' network: a link for each, all of whose packets pass the node's own network, where kube-proxy sees them; no
/// firewall.
pub(super) fn network(range: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "ranges": [[{ "subnet": range }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
}

/// kubelet 1.34. JSON is YAML too.
pub(super) fn kubelet(client_ca: &Path, cgroup: &str, address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": client_ca },
        },
        "authorization": { "mode": "Webhook" },
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        // The machine's own, in which loopback servers would be refused.
        "resolvConf": "",
        "healthzPort": 0,
        // The disk belongs to others too; a test bed evicts nobody.
        "evictionHard": {
            "imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "memory.available": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        // How often a pod is looked at although nothing happened, and its volumes are published again: a minute otherwise.
        "syncFrequency": "10s",
    })
}
