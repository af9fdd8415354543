//! Fakes that speak the wire, for tests. Never part of a product.
//!
//! Owns [`TestCa`] (certificates, right and wrong on demand), [`tokens`] (service account
//! tokens as Kubernetes mints them, and bad ones), [`FakeRa`] and
//! [`FakeEnvoy`] (the two ends that the agent talks to), the [`kubelet`] that brings it pods, [`PilotAgent`] (whom the RA answers in Istio), scripts of outcomes,
//! the search for secrets ([`leak`]), kubelet's words to a driver ([`csi`]), and the waiting and reading that every test needs. Knows neither the agent nor the RA.
//! A fake that fails panics: that is a failed test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::missing_panics_doc,
    reason = "test code in a crate of its own"
)]

pub mod ca;
pub mod csi;
pub mod eventually;
pub mod fake_envoy;
pub mod fake_ra;
pub mod fault;
pub mod kubelet;
pub mod leak;
pub mod metrics;
pub mod pilot_agent;
pub mod script;
pub mod tap;
pub mod tokens;

pub use ca::TestCa;
pub use ensign_pki::crypto::PROVIDER_NAME;
pub use eventually::{eventually, patience};
pub use fake_envoy::FakeEnvoy;
pub use fake_ra::FakeRa;
pub use fault::Fault;
pub use pilot_agent::PilotAgent;
pub use script::{Gate, Script, ScriptedOutcome};
