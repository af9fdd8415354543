//! Nothing of a cluster can be reached from another machine.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, ensure};
use ensign_testbed::cluster::Cluster;

use super::pids_of;

#[tokio::test]
async fn everything_of_a_cluster_listens_on_loopback_only() -> anyhow::Result<()> {
    let bed = Cluster::shared().await?;
    let mut sockets = BTreeSet::new();
    for pid in pids_of(bed.folder()) {
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let inode = target
                .to_str()
                .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
            sockets.extend(inode.map(str::to_owned));
        }
    }
    let mut listeners = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table)?.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (fields[1], fields[3], fields[9]);
            // TCP_LISTEN
            if state == "0A" && sockets.contains(inode) {
                listeners.push(local.to_owned());
            }
        }
    }
    // etcd twice, the API server, cert-manager's webhook.
    assert_eq!(listeners.len(), 4, "{listeners:?}");
    for local in listeners {
        let (address, _) = local.split_once(':').context("a strange line")?;
        ensure!(address == "0100007F", "{local} is not 127.0.0.1");
    }
    bed.finish().await
}
