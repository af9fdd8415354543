//! The way to one Kubernetes API server: a client, what its answers mean, and caches that follow it.
//!
//! Owns connecting ([`connect`]), who we are there ([`Home`]), one meaning per answer ([`ApiError`]), counts of what is
//! asked ([`KubernetesMetrics`]), shared watches ([`follow()`], [`Store`]), and Secrets that are known by name
//! ([`NamedSecret`]). Promises that a request ends within a bound, that every request is counted by verb and resource,
//! that nothing is throttled or repeated behind the caller's back, and that a follower survives closed streams, 410 and
//! restarts of the server. Which objects are read or written, and why, is the business of `authn`, `authz`,
//! `distribution`, `istiod`, `leader`, `mesh`, `serving`, `signer`, `trust`.

mod client;
mod error;
mod follow;
mod home;
mod meter;
mod secret;
mod store;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod tls_secret;
mod trust_bundle;

pub use client::{Cluster, ClusterSource, ConnectError, connect};
pub use error::ApiError;
pub use follow::{Follower, One, WatchState, WatchTrouble, Watched, follow, follow_one, named};
pub(crate) use home::FIELD_MANAGER;
pub use home::Home;
pub use meter::KubernetesMetrics;
pub use secret::{KeySecret, NamedSecret, Values};
pub(crate) use store::is_later;
pub use store::{ObjectKey, Store, Subscription};
pub use trust_bundle::{NotServed, serves_trust_bundles};
