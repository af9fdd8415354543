//! The registration authority.

pub mod policy;
pub mod serving;
pub mod signer;
pub mod trust;
