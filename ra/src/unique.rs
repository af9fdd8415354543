//! A name that nothing else has: of a request in the log, of a replica among the others.
//!
//! Neither a secret nor a promise: without randomness from the system it is a guess, which is better than no answer.

use ensign_pki::crypto;

/// Sixteen hex digits.
pub(crate) fn unique() -> String {
    let bits = crypto::random_bytes::<8>().map_or_else(|_| fastrand::u64(..), u64::from_be_bytes);
    format!("{bits:016x}")
}
