//! What the programs of a node read: containerd's and kubelet's settings, the pods' network.
//!
//! Each setting that is not obvious has its reason beside it; most were found by a program that did not start.

use std::{net::Ipv4Addr, path::Path};

use serde_json::{Value, json};

use super::image::GUEST;

/// containerd 1.6.
pub(super) fn containerd(folder: &Path) -> String {
    let cni = folder.join("cni");
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
  # Works on any file system.
  snapshotter = "native"
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

/// The pods' network: a bridge, without a firewall.
pub(super) fn network(range: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isDefaultGateway": true,
            "hairpinMode": true,
            "ipMasq": false,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": range }]] },
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
