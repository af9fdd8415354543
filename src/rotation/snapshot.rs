//! What `/status` and the metrics see of the entries and their roots: plain copies, no keys, no tokens.

use std::time::{Duration, SystemTime};

use ensign_pki::{Certificate, KeyType, SpiffeId, crypto, hex};

use super::WorkloadUid;
use crate::csr_client::{RequestId, SignerName};

/// Where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing issued yet: in the queue, or waiting for a reconnecting Envoy's claim.
    Waiting,
    /// The first request is in flight.
    Issuing,
    /// A valid certificate is offered.
    Active,
    /// A valid certificate is offered and its successor is being asked for.
    Renewing,
    /// The last request failed; the next is scheduled. A valid certificate is still offered, if there is one.
    BackingOff,
    /// An Envoy holds a valid certificate from before our start.
    Adopted,
    /// The last certificate expired.
    Expired,
}

impl Phase {
    /// Each phase once.
    pub const ALL: [Self; 7] = [
        Self::Waiting,
        Self::Issuing,
        Self::Active,
        Self::Renewing,
        Self::BackingOff,
        Self::Adopted,
        Self::Expired,
    ];

    /// The phase's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Issuing => "issuing",
            Self::Active => "active",
            Self::Renewing => "renewing",
            Self::BackingOff => "backing off",
            Self::Adopted => "adopted",
            Self::Expired => "expired",
        }
    }
}

/// The last failure of an entry; gone with the next success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// A short name, one of few.
    pub reason: &'static str,
    /// The whole story, causes included.
    pub message: String,
    /// What the authority calls the request in its own log, if it refused it and says so.
    pub request_id: Option<RequestId>,
    /// When.
    pub at: SystemTime,
}

/// One entry as it is now.
#[derive(Debug, Clone)]
pub struct EntrySnapshot {
    /// The workload.
    pub workload: WorkloadUid,
    /// Its identity.
    pub id: SpiffeId,
    /// The signer; none means the authority's default.
    pub signer: Option<SignerName>,
    /// The kind of its keys.
    pub key_type: KeyType,
    /// Where it stands.
    pub phase: Phase,
    /// Whether the certificate below is one that an Envoy holds from before our start.
    pub adopted: bool,
    /// The certificate's serial number, hexadecimal.
    pub serial: Option<String>,
    /// The beginning of its validity.
    pub not_before: Option<SystemTime>,
    /// The end of its validity (the earliest in the chain).
    pub not_after: Option<SystemTime>,
    /// When it will be renewed.
    pub renew_at: Option<SystemTime>,
    /// When the next try is due, after a failure.
    pub retry_in: Option<Duration>,
    /// The last failure, if nothing succeeded since.
    pub last_error: Option<LastError>,
    /// Failures in a row.
    pub attempts: u32,
    /// How many subscriptions there are.
    pub consumers: usize,
}

/// One root that is offered as it is now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootSnapshot {
    /// To workloads of this signer; none means the authority's default.
    pub signer: Option<SignerName>,
    /// SHA-256 of the certificate, hexadecimal.
    pub sha256: String,
    /// The end of its validity.
    pub not_after: SystemTime,
}

impl RootSnapshot {
    pub(super) fn of(signer: Option<&SignerName>, root: &Certificate) -> Self {
        Self {
            signer: signer.cloned(),
            sha256: hex::encode(&crypto::sha256(root.der())),
            not_after: root.not_after(),
        }
    }
}
