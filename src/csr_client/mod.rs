//! Asking a certificate authority to sign a CSR: the seam [`Sign`] and its one product implementation, [`IstioCa`].
//!
//! Owns: the wire call `CreateCertificate`, the connection and its roots, bearer tokens, and the sorting of failures.
//! Promises: every call ends (a deadline covers connecting, handshake and answer); a token is read again for each
//! attempt and shows in no log, error or `Debug`.
//! Leaves to others: keys, verifying what came back and when to ask again (`rotation`).

mod address;
mod config;
mod connect;
mod error;
mod istio;
mod request;
mod roots;
mod token;

pub use self::address::{AddressError, CaAddress};
pub use self::config::{IstioCaConfig, IstioCaConfigError};
pub use self::error::{Retry, SignError};
pub use self::istio::IstioCa;
pub use self::request::{Answer, Replica, RequestId, Sign, SignRequest};
pub use self::roots::{CaRoots, RootsError};
pub use self::token::{FileToken, Token, TokenError, TokenSource};
pub use ensign_pki::{SignerName, SignerNameError};
