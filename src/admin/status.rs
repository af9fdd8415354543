//! The status as data: one line per entry, joined with its workload's socket. No keys, no tokens, no certificates.
//!
//! The JSON form is for tools and tests: fields are added, never renamed. Times are RFC 3339 in UTC.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{SocketLine, StatusSource, advice};
use crate::rotation::EntrySnapshot;

/// The whole node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    pub(super) version: &'static str,
    pub(super) now: String,
    pub(super) authority: String,
    pub(super) ready: bool,
    pub(super) pending: Vec<Pending>,
    /// None while there are no certificates.
    pub(super) outage_budget_seconds: Option<u64>,
    pub(super) workloads: Vec<Workload>,
}

#[derive(Debug, Serialize)]
pub(super) struct Pending {
    pub(super) name: &'static str,
    pub(super) reason: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Workload {
    pub(super) workload: String,
    pub(super) socket: Option<String>,
    pub(super) connections: usize,
    pub(super) streams: usize,
    pub(super) certificates: Vec<Certificate>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Certificate {
    pub(super) id: String,
    pub(super) signer: Option<String>,
    pub(super) key_type: String,
    pub(super) state: &'static str,
    pub(super) adopted: bool,
    pub(super) serial: Option<String>,
    pub(super) not_before: Option<String>,
    pub(super) not_after: Option<String>,
    pub(super) renew_at: Option<String>,
    pub(super) retry_in_seconds: Option<u64>,
    pub(super) attempts: u32,
    pub(super) consumers: usize,
    pub(super) last_error: Option<Failure>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Under which name the authority's log has the exact reason.
    pub(super) request_id: Option<String>,
    pub(super) at: String,
    /// What to do about it.
    pub(super) next: &'static str,
}

// === impl Status ===

impl Status {
    pub(super) fn of(source: &StatusSource) -> Self {
        let pending = source.readiness.pending();
        let pending: Vec<_> = pending
            .into_iter()
            .map(|p| Pending {
                name: p.name,
                reason: p.reason,
            })
            .collect();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            now: rfc3339(source.clock.now()),
            authority: source.authority.clone(),
            ready: pending.is_empty(),
            pending,
            outage_budget_seconds: source.rotation.outage_budget().map(|budget| budget.as_secs()),
            workloads: workloads((source.sockets)(), source.rotation.snapshot()),
        }
    }
}

/// A workload is shown if it has a socket or an entry; without a request of its Envoy it has no entry yet.
fn workloads(sockets: Vec<SocketLine>, entries: Vec<EntrySnapshot>) -> Vec<Workload> {
    let mut workloads: BTreeMap<String, Workload> = BTreeMap::new();
    for socket in sockets {
        let name = socket.workload.to_string();
        let workload = workloads.entry(name.clone()).or_insert_with(|| Workload::named(name));
        workload.socket = Some(socket.path.display().to_string());
        workload.connections += socket.connections;
        workload.streams += socket.streams;
    }
    for entry in entries {
        let name = entry.workload.to_string();
        let workload = workloads.entry(name.clone()).or_insert_with(|| Workload::named(name));
        workload.certificates.push(Certificate::of(entry));
    }
    workloads.into_values().collect()
}

impl Workload {
    fn named(workload: String) -> Self {
        Self {
            workload,
            socket: None,
            connections: 0,
            streams: 0,
            certificates: Vec::new(),
        }
    }
}

impl Certificate {
    fn of(entry: EntrySnapshot) -> Self {
        let failure = entry.last_error.map(|error| Failure {
            reason: error.reason,
            message: error.message,
            request_id: error.request_id.map(|id| id.to_string()),
            at: rfc3339(error.at),
            next: advice::for_reason(error.reason),
        });
        Self {
            id: entry.id.to_string(),
            signer: entry.signer.map(|signer| signer.to_string()),
            key_type: entry.key_type.to_string(),
            state: entry.phase.as_str(),
            adopted: entry.adopted,
            serial: entry.serial,
            not_before: entry.not_before.map(rfc3339),
            not_after: entry.not_after.map(rfc3339),
            renew_at: entry.renew_at.map(rfc3339),
            retry_in_seconds: entry.retry_in.as_ref().map(Duration::as_secs),
            attempts: entry.attempts,
            consumers: entry.consumers,
            last_error: failure,
        }
    }
}

/// Whole seconds: nobody reads more, and certificates have no more.
fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    time.replace_nanosecond(0)
        .unwrap_or(time)
        .format(&Rfc3339)
        .unwrap_or_default()
}
