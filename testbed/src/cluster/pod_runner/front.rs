//! One port that leads to whoever is ready, as a Service's address does.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// The port, for as long as it lives.
pub(super) struct Front {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

// === impl Front ===

impl Front {
    /// Begins without a target: connections are closed until there is one.
    pub(super) async fn open() -> anyhow::Result<(watch::Sender<Vec<SocketAddr>>, Self)> {
        let (sender, targets) = watch::channel(Vec::<SocketAddr>::new());
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("no free port on loopback")?;
        let address = listener.local_addr().context("no address")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let Some(target) = fastrand::choice(targets.borrow().iter().copied()) else {
                    continue;
                };
                connections.spawn(async move {
                    // A target that just ended looks like a Service's endpoint that did.
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        drop(copy_bidirectional(&mut client, &mut server).await);
                    }
                });
            }
        });
        Ok((sender, Self { address, _tasks: tasks }))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}
