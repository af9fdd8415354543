//! The life of keys and certificates: when to ask, what to accept, what to offer, what to forget.
//!
//! Owns every entry, keyed by (workload, signer, key type): its key, its certificate, its one request in flight, its
//! schedule and its backoff; and one bundle of roots per signer. One worker drives all of them.
//! Promises: a renewal is fetch, verify, swap (I4); one entry's failure delays no other (I5); what does not verify is
//! never offered (I3); every time comes from the certificate (I10); a restart costs no CSR that was not due (I9).
//! Leaves to others: who a workload is (`source`), how a secret looks on the wire (`sds`), how a CSR travels
//! (`csr_client`).

mod backoff;
mod bundles;
mod config;
mod core;
mod entry;
mod handle;
mod issue;
mod metrics;
mod need;
mod queue;
mod refusal;
mod schedule;
mod slow_keys;
mod snapshot;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod version;
mod worker;
mod workload;

pub use self::config::RotationConfig;
pub use self::handle::{Feedback, Handle, SubscribeError, Subscription};
pub use self::metrics::RotationCollector;
pub use self::schedule::{Schedule, ScheduleError};
pub use self::snapshot::{EntrySnapshot, LastError, Phase, RootSnapshot};
pub use self::state::{BundleSecret, CertificateSecret, EntryEnded, EntryState, Held};
pub use self::worker::{Worker, start};
pub use self::workload::{Workload, WorkloadUid};
pub use crate::csr_client::SignerName;
