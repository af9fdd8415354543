//! Certificates for servers of the control plane: istiod's, and the RA's own.
//!
//! The names are the operator's and the key is the RA's, so none of the rules for what a workload may ask for apply. What
//! comes back is checked all the same ([`ensign_pki::verify_server`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ensign_pki::{KeyError, KeyType, PrivateKey, ServerNames, SignerName, SpiffeId};
use rcgen::{CertificateParams, DistinguishedName, SanType};
use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::Instant;

use super::IdempotencyKey;
use crate::unique::unique;

/// The names of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerIdentity {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Its id in the mesh, if it has one.
    pub id: Option<SpiffeId>,
}

/// A request of the RA's own for a server: a key, names, and the CSR that joins them.
#[derive(Clone, Debug)]
pub struct ServerCsr {
    /// The CSR in PEM.
    pub pem: Arc<str>,
    /// Its public key, as DER.
    pub spki_der: Vec<u8>,
}

/// One request to a signer for a server.
#[derive(Clone, Debug)]
pub struct ServerIssuance {
    /// Who is asked, for its own refusals.
    pub signer: SignerName,
    /// The request.
    pub csr: ServerCsr,
    /// What it is for, on the record.
    pub record: String,
    /// How long the leaf should live.
    pub ttl: Duration,
    /// The same for each retry of the same request.
    pub idempotency_key: IdempotencyKey,
    /// Names it in our log.
    pub request_id: Arc<str>,
    /// When the RA stops waiting.
    pub deadline: Instant,
}

/// Why there is no CSR.
#[derive(Debug, Error)]
pub enum ServerCsrError {
    /// Names or a key that make none.
    #[error("no CSR can be made for these names")]
    Names(#[from] rcgen::Error),
    /// There is no key.
    #[error("no key can be made for the CSR")]
    Key(#[from] KeyError),
    /// The process is stopping.
    #[error("making the key was interrupted")]
    Interrupted(#[from] JoinError),
}

// === impl ServerIdentity ===

impl ServerIdentity {
    /// For the check of what was issued.
    pub fn names(&self) -> ServerNames<'_> {
        ServerNames {
            dns: &self.dns,
            addresses: &self.addresses,
            id: self.id.as_ref(),
        }
    }
}

// === impl ServerCsr ===

impl ServerCsr {
    /// A new key and its request. RSA takes its time.
    pub async fn fresh(
        key_type: KeyType,
        identity: &ServerIdentity,
    ) -> Result<(Arc<PrivateKey>, Self), ServerCsrError> {
        let identity = identity.clone();
        let made = spawn_blocking(move || {
            let key = PrivateKey::generate(key_type)?;
            let csr = Self::build(&key, &identity)?;
            Ok((Arc::new(key), csr))
        });
        made.await?
    }

    /// Signs a CSR with an empty subject and the names as critical subject alternative names.
    pub fn build(key: &PrivateKey, identity: &ServerIdentity) -> Result<Self, ServerCsrError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for name in &identity.dns {
            params
                .subject_alt_names
                .push(SanType::DnsName(name.as_str().try_into()?));
        }
        params
            .subject_alt_names
            .extend(identity.addresses.iter().map(|address| SanType::IpAddress(*address)));
        if let Some(id) = &identity.id {
            params.subject_alt_names.push(SanType::URI(id.as_str().try_into()?));
        }
        let request = params.serialize_request(key.signing_key())?;
        Ok(Self {
            pem: request.pem()?.into(),
            spki_der: key.spki_der(),
        })
    }
}

// === impl ServerIssuance ===

impl ServerIssuance {
    /// A request that begins now. Asked again with the same key, it finds its own object.
    pub fn new(csr: ServerCsr, signer: &SignerName, record: &str, ttl: Duration, patience: Duration) -> Self {
        let idempotency_key = IdempotencyKey::of_parts(&[
            b"server",
            record.as_bytes(),
            signer.as_str().as_bytes(),
            &csr.spki_der,
            &ttl.as_nanos().to_be_bytes(),
        ]);
        Self {
            signer: signer.clone(),
            csr,
            record: record.to_owned(),
            ttl,
            idempotency_key,
            request_id: unique().into(),
            deadline: Instant::now() + patience,
        }
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer as _, ParsedExtension, X509CertificationRequest};

    use super::*;

    #[test]
    fn a_csr_holds_the_names_and_nothing_else() {
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        let identity = ServerIdentity {
            dns: vec!["istiod.istio-system.svc".to_owned()],
            addresses: vec![[10, 0, 0, 1].into()],
            id: Some(
                "spiffe://cluster.local/ns/istio-system/sa/istiod-service-account"
                    .parse()
                    .unwrap(),
            ),
        };
        let csr = ServerCsr::build(&key, &identity).unwrap();
        let der = pem(&csr.pem);
        let (_, parsed) = X509CertificationRequest::from_der(&der).unwrap();
        parsed.verify_signature().unwrap();
        let info = &parsed.certification_request_info;
        assert_eq!(info.subject.iter().count(), 0);
        assert_eq!(info.subject_pki.raw, csr.spki_der);
        let extensions: Vec<_> = parsed.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(names)] = extensions.as_slice() else {
            panic!("{extensions:?}")
        };
        assert_eq!(names.general_names.len(), 3);
    }

    fn pem(text: &str) -> Vec<u8> {
        use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
        CertificateSigningRequestDer::from_pem_slice(text.as_bytes())
            .unwrap()
            .to_vec()
    }

    #[test]
    fn a_retry_has_the_same_name_and_another_key_another() {
        let identity = ServerIdentity::default();
        let [first, second] = [(); 2].map(|()| PrivateKey::generate(KeyType::P256).unwrap());
        let name = |key: &PrivateKey| {
            let csr = ServerCsr::build(key, &identity).unwrap();
            let hour = Duration::from_secs(3600);
            ServerIssuance::new(csr, &"foo".parse().unwrap(), "istiod-tls", hour, hour).idempotency_key
        };
        assert_eq!(name(&first), name(&first));
        assert_ne!(name(&first), name(&second));
    }
}
