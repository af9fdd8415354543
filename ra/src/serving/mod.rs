//! The RA's own face: the certificate that it shows to agents, and the TLS listener.
//!
//! Owns where the serving certificate comes from (a mounted pair, a CA of its own in a folder or in a Secret that the
//! replicas share, or an issuer of cert-manager), its renewal, and its roots for those who distribute them. Promises that
//! the certificate in use is whole and replaced between two handshakes without a restart; that a root is out before a
//! certificate under it is shown; that nothing is withdrawn because a renewal failed; and that one provider, TLS 1.2 or
//! later and `h2` are all that is spoken. Leaves requests to `service` and draining to `app`.

mod acceptor;
mod ca_secret;
mod client_certificates;
mod connection;
mod files;
mod handover;
mod health;
mod issued;
mod leaf;
mod own_ca;
mod profile;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use ensign_daemon::watched_file::WatchError;
use ensign_pki::{
    BundleError, Certificate, CertificateError, Chain, KeyError, KeyType, PrivateKey, SignerName, TrustDomain, crypto,
};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use thiserror::Error;
use tokio::sync::watch;

use self::issued::IssuedSource;
pub use self::{
    acceptor::{Acceptor, Incoming, TlsLimits},
    connection::{Peer, TlsConnection},
    health::follow_health,
    own_ca::refuse_overlap,
    profile::{TlsProfile, TlsProfileError},
};
use crate::{
    desk::{Desk, Which, pick},
    kubernetes::Home,
    signer::{
        Host,
        local::{LocalError, issuer::rfc3339},
    },
    trust::Roots,
};

/// Where the serving certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServingSource {
    /// A certificate chain and its key, mounted and replaced by somebody else.
    Files {
        /// Leaf first, then intermediates.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// Its roots, for the namespaces: a serving certificate does not bring them.
        roots: Option<PathBuf>,
    },
    /// A CA of its own, made on first start, that signs nothing but the serving certificate.
    OwnCa {
        /// Its folder; never one of a signer.
        dir: PathBuf,
        /// Names and addresses by which agents call the RA.
        names: Vec<String>,
        /// Where its root goes for the agents' `CA_ROOT_CA`.
        root_file: Option<PathBuf>,
    },
    /// The same in a Secret of our own namespace, for all replicas.
    CaSecret {
        /// Its name.
        name: String,
        /// Names and addresses by which agents call the RA.
        names: Vec<String>,
        /// How long a new root is out before a certificate under it is shown.
        overlap: Duration,
    },
    /// From a signer of the policy behind cert-manager.
    Issued(IssuedConfig),
}

/// What a signer of the policy is asked for, and where its answer is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedConfig {
    /// The signer; the only one behind cert-manager without a name.
    pub signer: Option<SignerName>,
    /// The Secret of our own namespace that keeps the last good pair.
    pub secret: String,
    /// Names and addresses by which agents call the RA.
    pub names: Vec<String>,
    /// The type of its key.
    pub key_type: KeyType,
    /// How long it should live.
    pub ttl: Duration,
    /// How long a new root is out before a certificate under it is shown.
    pub overlap: Duration,
}

/// What opening needs of the process.
#[derive(Debug)]
pub struct ServingHost<'a> {
    /// The name of a CA of our own.
    pub trust_domain: &'a TrustDomain,
    /// Clock and tasks.
    pub host: &'a Host,
    /// Our place in a cluster.
    pub home: Option<&'a Home>,
    /// The policy, for a signer of it.
    pub desk: Option<watch::Receiver<Arc<Desk>>>,
}

/// The serving certificate and its roots, now and after each change. Cheap to clone.
#[derive(Clone)]
pub struct Serving {
    current: watch::Receiver<Arc<Shown>>,
    speaks: TlsProfile,
}

/// What is shown at one time.
struct Shown {
    face: Result<Arc<Face>, Absent>,
    roots: Option<Arc<Roots>>,
}

/// Why nothing can be shown yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Absent {
    /// What is waited for.
    why: String,
    /// The RA is as ready as it can be: there is nothing yet that it could serve.
    ready: bool,
}

/// One serving certificate and its key.
struct Face {
    key: Arc<CertifiedKey>,
    not_after: SystemTime,
}

/// Why there is no serving certificate.
#[derive(Debug, Error)]
pub enum ServingError {
    /// The mounted pair is missing or wrong.
    #[error("the serving certificate cannot be loaded; check --serving-cert-file and --serving-key-file")]
    Files(#[source] WatchError),
    /// The Secret needs an API server.
    #[error("{flag} needs Kubernetes, which is off (--kubernetes); name an API server, or use --serving-ca-dir")]
    NoKubernetes {
        /// What asks for it.
        flag: String,
    },
    /// The folder belongs to a signer.
    #[error(
        "--serving-ca-dir {dir} overlaps {other}, the folder of signer {signer}: who holds a workload's CA could pose as the RA and the reverse; name a folder of its own"
    )]
    Overlap {
        /// As configured.
        dir: String,
        /// The signer's folder.
        other: String,
        /// The signer.
        signer: String,
    },
    /// The CA of its own does not start.
    #[error("the serving CA in {dir} does not start")]
    OwnCa {
        /// Its folder.
        dir: String,
        /// Why.
        #[source]
        source: LocalError,
    },
    /// No certificate could be issued.
    #[error("the serving CA in {place} issues no certificate")]
    Issue {
        /// Its folder or Secret.
        place: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A name that fits no certificate.
    #[error("{name:?} in --serving-dns-names is neither a DNS name nor an IP address")]
    Name {
        /// As configured.
        name: String,
    },
    /// The root could not be written.
    #[error("the root of the serving certificate cannot be written to --serving-root-file {path}")]
    RootFile {
        /// As configured.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// rustls refuses our settings.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// Why a certificate and a key are no pair to serve.
#[derive(Debug, Error)]
enum FaceError {
    #[error("there is no certificate in it; expected the leaf first, then its intermediates")]
    NoCertificate,
    #[error("a certificate in it is damaged")]
    Damaged(#[from] CertificateError),
    #[error("its leaf expired at {0}; put a new pair in place")]
    Expired(String),
    #[error("the key cannot be used")]
    Key(#[from] KeyError),
    #[error("certificate and key are no pair, or of a kind that TLS does not use")]
    Pair(#[from] rustls::Error),
    #[error("its roots are no bundle")]
    Roots(#[from] BundleError),
}

// === impl ServingSource ===

impl ServingSource {
    /// The folder of the CA of its own, if it has one.
    pub fn own_ca_dir(&self) -> Option<&Path> {
        match self {
            Self::Files { .. } | Self::CaSecret { .. } | Self::Issued(_) => None,
            Self::OwnCa { dir, .. } => Some(dir),
        }
    }
}

// === impl Serving ===

impl Serving {
    /// Loads or makes the certificate, and starts what keeps it fresh as tasks of `host`. That no signer has the folder
    /// of a CA of our own is checked before, with [`refuse_overlap`].
    pub async fn open(source: ServingSource, of: ServingHost<'_>) -> Result<Self, ServingError> {
        let ServingHost {
            trust_domain,
            host,
            home,
            desk,
        } = of;
        let current = match source {
            ServingSource::Files {
                certificate,
                key,
                roots,
            } => files::open(certificate, key, roots, host).await?,
            ServingSource::OwnCa { dir, names, root_file } => {
                own_ca::open(own_ca::OwnCa::new(dir, names, root_file)?, trust_domain, host).await?
            }
            ServingSource::CaSecret { name, names, overlap } => {
                let Some(home) = home else {
                    let flag = format!("--serving-ca-secret {name}");
                    return Err(ServingError::NoKubernetes { flag });
                };
                let names = leaf::ServerNames::parse(names)?;
                ca_secret::open(&name, names, overlap, trust_domain, host, home).await
            }
            ServingSource::Issued(config) => {
                let Some((home, desk)) = home.zip(desk) else {
                    let flag = "--serving-from=cert-manager".to_owned();
                    return Err(ServingError::NoKubernetes { flag });
                };
                let source = IssuedSource {
                    identity: leaf::ServerNames::parse(config.names)?.into(),
                    secret: config.secret,
                    key_type: config.key_type,
                    ttl: config.ttl,
                    overlap: config.overlap,
                    signer: pick(desk, Which::cert_manager(config.signer)),
                };
                issued::open(source, host, home).await
            }
        };
        Ok(Self {
            current,
            speaks: TlsProfile::default(),
        })
    }

    /// With another choice of what TLS speaks.
    #[must_use]
    pub fn speaking(self, speaks: TlsProfile) -> Self {
        Self { speaks, ..self }
    }

    /// Settings for a TLS listener that always shows the certificate of the moment.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, ServingError> {
        let mut config = self
            .speaks
            .server()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    /// When the certificate in use dies, if there is one; for a metric.
    pub fn not_after(&self) -> Option<SystemTime> {
        self.current.borrow().face.as_ref().ok().map(|face| face.not_after)
    }

    /// What clients must trust to call us: the roots of the certificate in use, and of the next one.
    pub fn roots(&self) -> Option<Arc<Roots>> {
        self.current.borrow().roots.clone()
    }

    /// Whether there is a certificate, and nothing says what its roots are.
    pub fn is_without_roots(&self) -> bool {
        let shown = self.current.borrow();
        shown.face.is_ok() && shown.roots.is_none()
    }

    /// Waits for the next certificate or roots. `false` once nothing keeps them fresh any more.
    pub async fn changed(&mut self) -> bool {
        self.current.changed().await.is_ok()
    }

    fn absent(&self) -> Option<Absent> {
        self.current.borrow().face.as_ref().err().cloned()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current
            .borrow()
            .face
            .as_ref()
            .ok()
            .map(|face| Arc::clone(&face.key))
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}

/// The one protocol within TLS.
const ALPN: &[u8] = b"h2";

// === impl Face ===

impl Face {
    /// The certificates of a chain in their order.
    fn of_chain(chain: &Chain, key: &PrivateKey, now: SystemTime) -> Result<Self, FaceError> {
        Self::new(chain.iter().map(|one| one.der().clone()).collect(), key, now)
    }

    /// Checks that key and leaf are a pair and that the leaf is alive.
    fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKey, now: SystemTime) -> Result<Self, FaceError> {
        let not_after = Certificate::parse_der(chain.first().ok_or(FaceError::NoCertificate)?)?.not_after();
        if not_after <= now {
            return Err(FaceError::Expired(rfc3339(not_after)));
        }
        let pem = key.to_pkcs8_pem();
        let der =
            PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| rustls::Error::General(error.to_string()))?;
        let key = Arc::new(CertifiedKey::from_der(chain, der, &crypto::provider())?);
        Ok(Self { key, not_after })
    }
}
