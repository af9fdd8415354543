//! HTTPS for what the API server calls: webhooks, and the logs of pods.

use std::sync::Arc;

use anyhow::Context;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio_rustls::TlsAcceptor;

use super::Credential;

/// A server that shows this certificate.
pub(super) fn acceptor(credential: &Credential) -> anyhow::Result<TlsAcceptor> {
    let certificate =
        CertificateDer::from_pem_slice(credential.certificate_pem.as_bytes()).context("no certificate")?;
    let key = PrivateKeyDer::from_pem_slice(credential.key_pem.as_bytes()).context("no key")?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .context("the key does not fit")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
