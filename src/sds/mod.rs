//! Envoy's secret discovery service, on one Unix socket per workload.
//!
//! A request flows down this list: [`server`] accepts on a socket that [`unix_socket`](crate::unix_socket) keeps at its path, [`connection`]
//! speaks HTTP/2 and makes a [`session`] of each stream, which cuts messages ([`grpc`]), reads them ([`request`])
//! and asks a pure machine ([`stream`], [`delta`] or [`fetch`], over one [`ledger`]) what they mean. What is due is
//! encoded by [`secret`]. How much a pod's sockets, and all of a node, may take is counted by [`allowance`], for each pod by [`share`]. Promises: key material goes out under the name `default` of this workload's
//! socket and nowhere else; what a client refused is not sent to it again, on no stream; a client that waits is held,
//! not refused. Leaves what there is to serve, and when it is renewed, to [`rotation`](crate::rotation).

mod config;
mod metrics;
mod server;

mod allowance;
mod connection;
mod paced;
mod patient_io;
mod refused;
mod roots;
mod session;
mod share;

mod delta;
mod fetch;
mod grpc;
mod ledger;
mod names;
mod request;
mod secret;
mod stream;

pub use self::config::{Amounts, Config};
pub use self::metrics::Metrics;
pub use self::server::{Server, SocketHandle, SocketSnapshot};
pub use crate::unix_socket::{BindError, Owner, SocketSpec};
