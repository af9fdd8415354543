//! The direct limit: what a certificate costs at the API server and its signer, with no RA in between.
//!
//! A client in a process of its own does for each request what nobody can leave out: TokenReview, create, approval (CSR API
//! only), the event of one shared watch, delete. It connects as the RA does, by the RA's own function; all else is
//! kube's, or here.

pub(crate) mod client;
mod watched;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::issue::Request;

/// What the client is asked to do.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Question {
    /// Connect, and begin to watch.
    Connect {
        /// As whom.
        kubeconfig: PathBuf,
        /// Where CertificateRequests are made.
        namespace: String,
    },
    /// Serve each of these once.
    Once {
        /// How.
        way: Way,
        /// Requests in flight.
        in_flight: usize,
        /// What workloads would ask the RA for.
        requests: Vec<Request>,
    },
}

/// What is done for each request, after its token was reviewed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum Way {
    /// Nothing.
    Review,
    /// A CertificateSigningRequest of this signer.
    Csr(String),
    /// A CertificateRequest with this `issuerRef`.
    CertificateRequest(Value),
}
