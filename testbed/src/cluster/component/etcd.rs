//! etcd: one member, on loopback without TLS, not careful of its disk.

use super::{Surroundings, flag, http};

pub(super) fn args(surroundings: &Surroundings<'_>) -> Vec<String> {
    let client = http(surroundings.ports.etcd.address());
    let peer = http(surroundings.ports.etcd_peer.address());
    vec![
        flag("name", "testbed"),
        flag("data-dir", surroundings.file("etcd")),
        flag("listen-client-urls", &client),
        flag("advertise-client-urls", &client),
        flag("listen-peer-urls", &peer),
        flag("initial-advertise-peer-urls", &peer),
        flag("initial-cluster", format!("testbed={peer}")),
        flag("socket-reuse-port", true),
        // A test needs its data to survive a kill of etcd, not a loss of power.
        "--unsafe-no-fsync".to_owned(),
        flag("log-level", "warn"),
    ]
}
