//! Handshakes that ask for a client certificate and refuse none.
//!
//! Whether a certificate lets anybody in is judged with the request (`authn`), because one that is unknown, expired or
//! damaged must not keep out a caller whose token is good: Istio's own servers fail such handshakes. What only the
//! handshake can prove is that the peer has the key of the certificate that it shows, so that is noted per connection;
//! without it the certificate counts as not shown. Sessions are not resumed, since a resumed one proves nothing anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ensign_pki::crypto;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::TlsProfile;

/// Whether the peer of one connection proved that it has its certificate's key.
#[derive(Debug)]
pub(super) struct Possession {
    proven: AtomicBool,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Settings for one connection, and what it will know of its peer.
pub(super) fn asking(
    certificate: Arc<dyn ResolvesServerCert>,
    speaks: &TlsProfile,
) -> Result<(Arc<ServerConfig>, Arc<Possession>), rustls::Error> {
    let possession = Arc::new(Possession {
        proven: AtomicBool::new(false),
        algorithms: crypto::provider().signature_verification_algorithms,
    });
    let mut config = speaks
        .server()?
        .with_client_cert_verifier(Arc::clone(&possession) as Arc<dyn ClientCertVerifier>)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![super::ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), possession))
}

// === impl Possession ===

impl Possession {
    /// Once the handshake is over.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Acquire)
    }

    fn note(&self, outcome: &Result<HandshakeSignatureValid, rustls::Error>) {
        self.proven.store(outcome.is_ok(), Ordering::Release);
    }
}

impl ClientCertVerifier for Possession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: clients that have one certificate send it, and the signers' roots change.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.note(&verify_tls12_signature(message, certificate, signed, &self.algorithms));
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.note(&verify_tls13_signature(message, certificate, signed, &self.algorithms));
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
