//! A search for secrets in whatever a program lets out.
//!
//! Owns what counts as a piece of a secret, in which forms it might be written down, and the search for all of them at once. Left
//! to others: what is secret in a test, and what the program let out.

mod search;
mod secrets;
#[cfg(test)]
mod tests;

pub use search::{Find, Search};
pub use secrets::{Secrets, scalar};
