//! The roots that the certificate authority's own certificate must end in (`CA_ROOT_CA`).
//!
//! Nothing to do with the workloads' bundles. Whoever watches the file parses it into [`CaRoots`] and publishes it; a
//! file that does not parse never gets here, so the last good roots stay.

use std::fmt;
use std::sync::Arc;

use ensign_pki::crypto;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Trusted roots, ready to connect with.
#[derive(Clone)]
pub struct CaRoots {
    tls: Arc<ClientConfig>,
    count: usize,
}

/// Why a text holds no roots.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// Not PEM.
    #[error("the CA root file is not PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// Nothing in it.
    #[error("the CA root file holds no certificate, expected at least one in PEM")]
    Empty,
    /// Something in it is no root.
    #[error("certificate {position} of the CA root file cannot be a trust anchor")]
    NotAnAnchor {
        /// Counted from 1.
        position: usize,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The crypto provider cannot do TLS.
    #[error("no TLS with this crypto provider")]
    Tls(#[source] rustls::Error),
}

impl CaRoots {
    /// The roots in this PEM text; all must be usable.
    pub fn from_pem(pem: &[u8]) -> Result<Self, RootsError> {
        let mut store = RootCertStore::empty();
        for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let certificate = certificate.map_err(RootsError::Pem)?;
            let wrong = |source| RootsError::NotAnAnchor {
                position: index + 1,
                source,
            };
            store.add(certificate).map_err(wrong)?;
        }
        if store.is_empty() {
            return Err(RootsError::Empty);
        }
        let count = store.len();
        let mut tls = ClientConfig::builder_with_provider(crypto::provider())
            .with_safe_default_protocol_versions()
            .map_err(RootsError::Tls)?
            .with_root_certificates(store)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            tls: Arc::new(tls),
            count,
        })
    }

    /// TLS 1.2 or newer, HTTP/2, trusting these roots and nothing else.
    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls)
    }
}

impl fmt::Debug for CaRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaRoots({} certificates)", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        assert!(matches!(CaRoots::from_pem(b""), Err(RootsError::Empty)));
        assert!(matches!(
            CaRoots::from_pem(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"),
            Err(RootsError::Pem(_))
        ));
        let no_certificate = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            CaRoots::from_pem(no_certificate),
            Err(RootsError::NotAnAnchor { position: 1, .. })
        ));
    }
}
