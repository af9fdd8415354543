//! What the RA counts of its objects, by signer and event.

use ensign_pki::SignerName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counts. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ObjectMetrics {
    events: Family<EventLabels, Counter>,
    removals: Family<RemovalLabels, Counter>,
}

/// What can happen to a request that is an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// Made by us.
    Created,
    /// Found and gone on with: a retry's.
    Adopted,
    /// Its name was taken, another was used.
    Renamed,
    /// Somebody wrote to it while we approved it.
    ApprovalConflict,
    /// Somebody deleted it, and it was made again.
    CreatedAgain,
}

/// How a removal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Removal {
    /// Deleted by us.
    Deleted,
    /// Already gone, or another object by now.
    Gone,
    /// Left for the janitor.
    Failed,
    /// Past its end, deleted by the janitor.
    Swept,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    signer: String,
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RemovalLabels {
    outcome: &'static str,
}

// === impl ObjectMetrics ===

impl ObjectMetrics {
    /// Registers under `…_object_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "object_events",
            "Requests that are objects of an API server, by signer and what happened to them",
            metrics.events.clone(),
        );
        registry.register(
            "object_removals",
            "Ends of such objects, by how they ended",
            metrics.removals.clone(),
        );
        metrics
    }

    pub(crate) fn event(&self, signer: &SignerName, event: Event) {
        let labels = EventLabels {
            signer: signer.to_string(),
            event: event.as_str(),
        };
        self.events.get_or_create(&labels).inc();
    }

    pub(crate) fn removal(&self, removal: Removal) {
        let labels = RemovalLabels {
            outcome: removal.as_str(),
        };
        self.removals.get_or_create(&labels).inc();
    }
}

impl Event {
    fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Adopted => "adopted",
            Self::Renamed => "renamed",
            Self::ApprovalConflict => "approval_conflict",
            Self::CreatedAgain => "created_again",
        }
    }
}

impl Removal {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Gone => "gone",
            Self::Failed => "failed",
            Self::Swept => "swept",
        }
    }
}
