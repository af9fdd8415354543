//! Ensign's registration authority: who is calling, may they, by whom is it signed, does the answer hold.
//!
//! One request passes the modules in this order: `serving` (TLS), `edge` (a whole message, in time), `limits`, `authn`,
//! `request`, `authz`, `policy`, `signer`, `reply`; `service` calls them one by one, `call` is what is known meanwhile.
//! `desk` holds policy and signers together, `mesh` reads Istio's part of the policy, `trust` holds the roots of each
//! signer, `refusal` every way to end without a certificate, and `metrics` what is counted. `kubernetes` is the way to the
//! API server for all of them. `app` puts the parts together and `config` says how.
//!
//! Beside requests each replica clears up what requests left at the API server (`janitor`), and one (`leader`, `leading`)
//! gives the namespaces the roots of the control plane (`distribution`) and istiod its certificate (`istiod`); no request
//! waits for that. `in_use` is a command of its own, for the uninstallation of the agent. Invariants I6 (only the public
//! key and the requested id of a CSR are used) and I7 (the signer is the operator's choice) live here.

pub mod app;
pub mod authn;
pub mod authz;
mod call;
pub mod config;
pub mod desk;
pub mod distribution;
pub mod edge;
pub mod in_use;
pub mod istiod;
pub mod janitor;
pub mod kubernetes;
pub mod leader;
pub mod leading;
pub mod limits;
pub mod mesh;
pub mod metrics;
pub mod policy;
pub mod refusal;
pub mod reply;
pub mod request;
pub mod service;
pub mod serving;
pub mod signer;
pub mod trust;
mod unique;
mod yaml;
