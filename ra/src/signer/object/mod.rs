//! Signers behind an API server: one conversation engine for both kinds of request objects.
//!
//! A request is an object: created under a name that a retry finds again, approved, answered by its signer, read from a
//! shared watch, deleted. [`ObjectSigner`] is that life, the same for both APIs; a [`Dialect`] is what one API
//! adds: how its object is written, read and approved. Promises: no read per certificate; nothing is created for a
//! caller who is gone before; what was created is found again by a retry at any replica; no object is adopted or
//! deleted that another user created. Read in this order: [`kind`], [`marks`], [`requests`], [`adoption`], [`conversation`].

pub(crate) mod adoption;
mod answer;
pub(crate) mod ask;
mod backends;
mod conversation;
mod decide;
mod dialect;
mod hold;
pub(crate) mod issuers;
pub(crate) mod kind;
mod leftover;
pub(crate) mod marks;
pub(crate) mod metadata;
mod metrics;
mod name;
mod pushback;
mod remover;
pub(crate) mod requests;
mod shaken;
pub(crate) mod stage;
#[cfg(test)]
mod tests;

pub use self::{
    backends::{Backends, BackendsParts},
    metrics::ObjectMetrics,
    pushback::Pushback,
};
pub(crate) use self::{
    conversation::ObjectSigner,
    dialect::{Dialect, Marks},
    kind::{Phase, RequestKind},
};
