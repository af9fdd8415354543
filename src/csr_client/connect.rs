//! One TLS connection to one replica of the certificate authority.
//!
//! Names are resolved anew for each connection, and every address is tried in turn, each for a bounded time for TCP and
//! handshake together. The walk begins where [`Connector::leave_replica`] left it, so a replica that stalls or shows a
//! bad certificate is left for another. Roots are those in force when the connection is made.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{CaAddress, CaRoots};

/// Why no replica can be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("cannot resolve {host}")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("{host} resolves to no address")]
    NoAddress { host: String },
    #[error("no replica can be used: {tried}")]
    AllFailed { tried: String },
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    target: Arc<Target>,
}

struct Target {
    address: CaAddress,
    server_name: ServerName<'static>,
    roots: watch::Receiver<Arc<CaRoots>>,
    /// How long one address gets.
    patience: Duration,
    /// Where the walk over the addresses begins.
    first: AtomicUsize,
    /// Instead of what the name resolves to: no name on a test machine has two addresses.
    #[cfg(test)]
    addresses: Vec<SocketAddr>,
}

impl Connector {
    pub(super) fn new(
        address: CaAddress,
        server_name: ServerName<'static>,
        roots: watch::Receiver<Arc<CaRoots>>,
        patience: Duration,
    ) -> Self {
        // Agents that start together should not all begin with the same replica.
        let first = AtomicUsize::new(fastrand::usize(..1024));
        Self {
            target: Arc::new(Target {
                address,
                server_name,
                roots,
                patience,
                first,
                #[cfg(test)]
                addresses: Vec::new(),
            }),
        }
    }

    #[cfg(test)]
    pub(super) fn roots(&self) -> watch::Receiver<Arc<CaRoots>> {
        self.target.roots.clone()
    }

    /// The next connection begins with another replica.
    pub(super) fn leave_replica(&self) {
        self.target.first.fetch_add(1, Ordering::Relaxed);
    }
}

impl Target {
    async fn connect(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let addresses = self.resolve().await?;
        let tls = TlsConnector::from(self.roots.borrow().tls());
        let mut tried = Vec::new();
        let begin = self.first.load(Ordering::Relaxed);
        for step in 0..addresses.len() {
            let address = addresses[(begin.wrapping_add(step)) % addresses.len()];
            match timeout(self.patience, self.handshake(&tls, address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => tried.push(format!("{address}: {error}")),
                Err(_) => tried.push(format!("{address}: no handshake within {:?}", self.patience)),
            }
        }
        Err(ConnectError::AllFailed {
            tried: tried.join("; "),
        })
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        #[cfg(test)]
        if !self.addresses.is_empty() {
            return Ok(self.addresses.clone());
        }
        let host = self.address.host();
        let failed = |source| ConnectError::Resolve {
            host: host.to_owned(),
            source,
        };
        let late = |_| {
            failed(io::Error::new(
                io::ErrorKind::TimedOut,
                "the name server did not answer in time",
            ))
        };
        let lookup = tokio::net::lookup_host((host, self.address.port()));
        let mut addresses: Vec<_> = timeout(self.patience, lookup)
            .await
            .map_err(late)?
            .map_err(failed)?
            .collect();
        // A name server may turn its list at each answer; the walk wants a fixed order.
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(ConnectError::NoAddress { host: host.to_owned() });
        }
        Ok(addresses)
    }

    async fn handshake(&self, tls: &TlsConnector, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        tls.connect(self.server_name.clone(), stream).await
    }
}

impl tower::Service<http::Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let target = Arc::clone(&self.target);
        Box::pin(async move { target.connect().await.map(TokioIo::new) })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ensign_testkit::fake_ra::Door;
    use ensign_testkit::{FakeRa, TestCa};

    use super::*;

    /// Two replicas behind one name, and a connector whose walk begins with the first.
    pub(in crate::csr_client) async fn replicas() -> (FakeRa, FakeRa, Connector) {
        let (one, two) = (
            FakeRa::start(TestCa::new("mesh")).await,
            FakeRa::start(TestCa::new("mesh")).await,
        );
        let pem = one.serving_root_pem() + &two.serving_root_pem();
        let (_, roots) = watch::channel(Arc::new(CaRoots::from_pem(pem.as_bytes()).unwrap()));
        let target = Target {
            address: "localhost:443".parse().unwrap(),
            server_name: ServerName::try_from("localhost").unwrap(),
            roots,
            patience: Duration::from_secs(2),
            first: AtomicUsize::new(0),
            addresses: vec![one.address(), two.address()],
        };
        let connector = Connector {
            target: Arc::new(target),
        };
        (one, two, connector)
    }

    async fn reached(connector: &Connector) -> SocketAddr {
        let stream = connector.target.connect().await.unwrap();
        stream.get_ref().0.peer_addr().unwrap()
    }

    #[tokio::test]
    async fn a_replica_that_stalls_hangs_up_or_proves_nothing_is_passed_over() {
        let (one, two, connector) = replicas().await;
        assert_eq!(reached(&connector).await, one.address());
        for door in [Door::Silent, Door::Slammed] {
            one.set_door(door);
            assert_eq!(reached(&connector).await, two.address(), "{door:?}");
        }
        one.set_door(Door::Open);
        for serve in [FakeRa::serve_expired, FakeRa::serve_wrong_name, FakeRa::serve_stranger] {
            serve(&one);
            assert_eq!(reached(&connector).await, two.address());
        }
        one.serve_right();
        assert_eq!(reached(&connector).await, one.address());
    }

    #[tokio::test]
    async fn a_replica_that_was_left_is_the_last_to_be_tried() {
        let (one, mut two, connector) = replicas().await;
        connector.leave_replica();
        assert_eq!(reached(&connector).await, two.address());
        two.stop().await;
        assert_eq!(reached(&connector).await, one.address());
    }

    #[tokio::test]
    async fn when_all_fail_each_is_named() {
        let (mut one, two, connector) = replicas().await;
        one.stop().await;
        two.serve_expired();
        let error = connector.target.connect().await.unwrap_err().to_string();
        for address in [one.address(), two.address()] {
            assert!(error.contains(&address.to_string()), "{error}");
        }
        assert!(error.contains("xpired"), "{error}");
    }
}
