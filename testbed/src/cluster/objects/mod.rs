//! What tests put into a cluster: namespaces, accounts with real tokens, nodes and pods without a kubelet, issuers.

mod issuer;
mod place;
mod request;
mod token;

pub use self::{
    issuer::IssuerRef,
    request::{USAGES, issued},
    token::TokenOf,
};

/// A name that no other test has, from a word that says what for.
pub fn unique(word: &str) -> String {
    format!("{word}-{:08x}", fastrand::u32(..))
}
