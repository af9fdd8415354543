//! What a person's commands of `ensign-agent` do: read a node's status, explain a pod, check a cluster before use.
//!
//! Works with the person's own kubeconfig and rights, on the person's machine. The running agent uses nothing of it: it has
//! no Kubernetes client (tests/tidy.rs guards that). Everything is looked at first, as facts; judging is a function from
//! facts to findings without any I/O, so that each diagnosis has its test. Nothing is written to the cluster but
//! requests for tokens, where the person named the account.

pub mod access;

pub mod settings;

pub mod forward;

pub mod status;

pub mod driver;

pub mod explain;

pub mod preflight;

pub use access::{Access, ConnectError, Login};

/// Labels of the RA's Deployment and pods, as deploy/ has them, whatever they are called.
pub(crate) const RAS: &str = "app.kubernetes.io/part-of=ensign,app.kubernetes.io/component=authority";
