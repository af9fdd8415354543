//! The service accounts of one cluster: the uid of each, and when it is due to be gone.

use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::watch;

use super::object::AccountObject;
use crate::kubernetes::{Follower, ObjectKey, Store};

/// The accounts of one cluster, as of the last event.
#[derive(Debug)]
pub(super) struct Accounts {
    store: Store<AccountObject, Account>,
    changes: watch::Sender<u64>,
}

/// What is known of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    /// Tells it from a later account of the same name.
    pub(super) uid: Box<str>,
    /// When it is due to be gone, if it was deleted.
    pub(super) due: Option<SystemTime>,
}

// === impl Accounts ===

impl Accounts {
    pub(super) fn new(changes: watch::Sender<u64>) -> Self {
        Self {
            store: Store::keeping(|object: AccountObject| Account {
                uid: object.metadata.uid.unwrap_or_default().into(),
                due: object.metadata.deletion_timestamp.map(|Time(at)| at.into()),
            }),
            changes,
        }
    }

    pub(super) fn account(&self, namespace: &str, name: &str) -> Option<Account> {
        let account = self.store.get(&ObjectKey::new(namespace, name))?;
        Some(Account::clone(&account))
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Follower<AccountObject> for Accounts {
    fn begin(&self) {
        self.store.begin();
    }

    fn apply(&self, object: AccountObject) {
        self.store.apply(object);
        self.changed();
    }

    fn delete(&self, object: AccountObject) {
        self.store.delete(object);
        self.changed();
    }

    fn complete(&self) {
        self.store.complete();
        self.changed();
    }
}
