//! The vocabulary of Ensign: names, keys, requests, chains and certificates that are valid by construction.
//!
//! Both long-running programs are written in terms of these types. None of them performs I/O, knows a network or
//! reads a clock of its own. Read in this order:
//!
//! 1. [`SpiffeId`] and [`TrustDomain`]: who a workload is; [`SignerName`]: whom it asks to sign;
//! 2. [`PrivateKey`] and [`KeyType`]: what it proves it with;
//! 3. [`csr`]: the request that carries the public key and the id, built by the agent, parsed by the RA;
//! 4. [`Chain`] and [`Bundle`]: what a reply holds, put in order, and what it must end in;
//! 5. [`verify_issued`] and [`Svid`]: the checks that stand between a reply and an Envoy (invariant I3);
//!    [`verify_presented`]: whose certificate a peer shows;
//! 6. [`Clock`]: time, passed in;
//! 7. [`crypto`]: the only file that names a crypto provider.

pub mod bundle;
pub mod certificate;
pub mod chain;
pub mod clock;
pub mod crypto;
pub mod csr;
mod der;
pub mod dns_name;
pub mod hex;
pub mod key;
mod pem;
mod san;
pub mod signer_name;
pub mod spiffe_id;
pub mod svid;
#[cfg(test)]
mod test_ca;

pub use bundle::{Bundle, BundleError};
pub use certificate::{Certificate, CertificateError};
pub use chain::{Chain, ChainError};
pub use clock::{Clock, SharedClock, SystemClock};
pub use crypto::CryptoError;
pub use csr::{Csr, CsrError};
pub use der::DerError;
pub use key::{KeyError, KeyType, PrivateKey};
pub use pem::PemError;
pub use san::SanError;
pub use signer_name::{SignerName, SignerNameError};
pub use spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use svid::{ServerNames, Svid, SvidError, Validity, verify_issued, verify_presented, verify_server};
