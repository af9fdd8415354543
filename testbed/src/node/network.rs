//! The network of some nodes: a bridge on the machine, a range of addresses, the ways between them.
//!
//! Each network has a number that no other of this machine has, and all addresses follow from it: nodes are in
//! `10.99.<number>.0/24`, the machine is `.1` there; the pods of the first node in `10.244.<number>.0/24`, of the second in
//! `10.245.<number>.0/24`. Nodes know the ways to each other's pods, the machine knows them all.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use rustix::fs::FlockOperation;

use super::relay::Relay;
use crate::cluster::Access;

/// Nodes of one network.
const MOST: u8 = 4;

/// A running network.
pub struct Network {
    number: u8,
    api: Relay,
    _lock: File,
}

/// A node's place in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    network: u8,
    /// From 1.
    index: u8,
}

// === impl Network ===

impl Network {
    /// Makes one in which nodes reach this cluster's API server.
    pub async fn start(cluster: &Access) -> anyhow::Result<Self> {
        let (number, lock) = free_number()?;
        // One whose owner was killed is still there. So are the links of one that just ended: the kernel takes a node's network
        // apart some time after the node's last process.
        for link in (1..=MOST).map(|index| link(number, index)).chain([bridge(number)]) {
            drop(ip(&["link", "delete", &link]));
        }
        ip(&["link", "add", &bridge(number), "type", "bridge"]).context("a node needs a bridge")?;
        ip(&[
            "address",
            "add",
            &format!("{}/24", gateway(number)),
            "dev",
            &bridge(number),
        ])?;
        ip(&["link", "set", &bridge(number), "up"])?;
        let api = Relay::start(gateway(number), cluster.server()).await?;
        Ok(Self {
            number,
            api,
            _lock: lock,
        })
    }

    /// Where nodes and pods reach the API server.
    pub fn api(&self) -> SocketAddr {
        self.api.address()
    }

    /// Brings a port of the machine to where nodes and pods can reach it.
    pub async fn relay(&self, target: SocketAddr) -> anyhow::Result<Relay> {
        Relay::start(gateway(self.number), target).await
    }

    /// A place for the node of this index, from 0.
    pub(super) fn place(&self, index: usize) -> anyhow::Result<Place> {
        let index = u8::try_from(index + 1).ok().filter(|index| *index <= MOST);
        let index = index.with_context(|| format!("a network has room for {MOST} nodes"))?;
        Ok(Place {
            network: self.number,
            index,
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Its routes and addresses go with it; if it stays, the next owner of the number removes it.
        drop(ip(&["link", "delete", &bridge(self.number)]));
    }
}

// === impl Place ===

impl Place {
    /// The node's address.
    pub(super) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.network, 10 + self.index)
    }

    /// The machine's.
    pub(super) fn gateway(self) -> Ipv4Addr {
        gateway(self.network)
    }

    /// The range of the node's pods.
    pub(super) fn pods(self) -> String {
        format!("10.{}.{}.0/24", 243 + self.index, self.network)
    }

    /// Its control group, which no other node of the machine has.
    pub(super) fn cgroup(self) -> String {
        format!("/ensign-node-{}-{}", self.network, self.index)
    }

    /// The ways to the pods of the others: range, and the node's address.
    pub(super) fn routes(self) -> Vec<(String, Ipv4Addr)> {
        let others = (1..=MOST).filter(|index| *index != self.index);
        let others = others.map(|index| Self { index, ..self });
        others.map(|other| (other.pods(), other.address())).collect()
    }

    /// A link between the bridge and a node's network, which is that of this process. It goes with that network.
    pub(super) fn connect(self, pid: u32) -> anyhow::Result<()> {
        let (link, bridge, pid) = (link(self.network, self.index), bridge(self.network), pid.to_string());
        ip(&[
            "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid,
        ])?;
        ip(&["link", "set", &link, "master", &bridge, "up"])?;
        ip(&["route", "add", &self.pods(), "via", &self.address().to_string()])
    }
}

/// The first number that nobody has, and what keeps it ours.
fn free_number() -> anyhow::Result<(u8, File)> {
    for number in 1..=200 {
        let path = std::env::temp_dir().join(format!("ensign-network-{number}.lock"));
        let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok((number, lock));
        }
    }
    bail!("200 networks are on this machine already")
}

fn bridge(number: u8) -> String {
    format!("ensign{number}")
}

/// The machine's end of a node's link.
fn link(network: u8, index: u8) -> String {
    format!("ensign{network}-{index}")
}

fn gateway(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, number, 1)
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output();
    let output = output.context("cannot run ip")?;
    ensure!(
        output.status.success(),
        "ip {args:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_one_network_know_the_ways_to_each_other() {
        let [first, second] = [1, 2].map(|index| Place { network: 7, index });
        assert_eq!(first.pods(), "10.244.7.0/24");
        assert!(first.routes().contains(&(second.pods(), second.address())));
        assert!(first.routes().iter().all(|(range, _)| *range != first.pods()));
    }
}
