//! Brings a port of the machine's loopback to an address that a node's pods can reach.
//!
//! The programs of a cluster listen on loopback only, so that no test listens on the machine's own interfaces; a node has a
//! network of its own.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// A relay, for as long as it lives.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// From a port of this address to `target`.
    pub(super) async fn start(address: Ipv4Addr, target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((address, 0))
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(async move {
                    // A target that is down looks to the client like a server that went.
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        drop(copy_bidirectional(&mut client, &mut server).await);
                    }
                });
            }
        });
        Ok(Self { address, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
