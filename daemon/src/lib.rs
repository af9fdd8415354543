//! What Ensign's two long-running programs, the agent and the RA, need of their host.
//!
//! Each module is one facility with one contract; none knows certificates, SDS or policy. Read them
//! in the order in which a program uses them: `hardening` before anything else, then `settings` and
//! `logging` (both quote input, so they use `redact`), then `descriptors`, then everything under one `supervise::Supervisor`.

pub mod hardening;

pub mod redact;

pub mod settings;

pub mod go_duration;

pub mod logging;

pub mod descriptors;

pub mod build_info;

mod exposition;

pub mod supervise;

pub mod watched_file;

pub mod readiness;

pub mod http;

pub mod addresses;

pub mod finding;

pub use finding::{Finding, Report, Verdict};
pub use go_duration::GoDuration;
pub use readiness::Readiness;
pub use supervise::Supervisor;
