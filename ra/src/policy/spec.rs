//! What the operator says about one signer, parsed and valid, before anything is built from it.
//!
//! Two specs that are equal describe the same signer: a reload keeps a running signer whose spec did not change.
//! What a spec turns into is the business of `signer` (who signs) and `trust` (which roots go with it).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ensign_pki::{SignerName, TrustDomain};

/// One signer of the policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerSpec {
    /// Its name, unique in the file.
    pub name: SignerName,
    /// The trust domain that every certificate of this authority names.
    pub trust_domain: TrustDomain,
    /// Who signs.
    pub backend: Backend,
    /// A file with the bundle that replies carry; without it the backend's own root.
    pub roots: Option<PathBuf>,
    /// How far NotBefore lies in the past, for peers whose clock is behind.
    pub backdate: Duration,
}

/// The roots of a signer behind the API server, which cannot be had from the signer itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootsSpec {
    /// A watched file.
    File(PathBuf),
    /// In hand: from Istio's mesh configuration.
    Pem(Arc<str>),
    /// A key of a ConfigMap, watched.
    ConfigMap {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key that holds PEM.
        key: String,
    },
    /// A ClusterTrustBundle, watched.
    ClusterTrustBundle {
        /// Its name.
        name: String,
    },
    /// As istio-csr does without a root file: what the issuer said of itself when it signed the serving certificate.
    Discover,
}

/// Signing through the Kubernetes CSR API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesCsrSpec {
    /// `spec.signerName`, such as `clusterissuers.cert-manager.io/foo`.
    pub signer_name: String,
    /// Whether the RA approves its own requests; otherwise somebody else must.
    pub approve: bool,
    /// The roots that its chains end in.
    pub roots: RootsSpec,
    /// What both Kubernetes backends need.
    pub request: RequestSpec,
}

/// Signing through cert-manager's CertificateRequests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertManagerSpec {
    /// Where the requests are made.
    pub namespace: String,
    /// Who signs, unless the ConfigMap says otherwise; `None`: only the ConfigMap says.
    pub issuer: Option<IssuerRef>,
    /// A ConfigMap that names the issuer at run time (`--runtime-issuance-config-map-name`).
    pub runtime_issuer: Option<ConfigMapRef>,
    /// Put on every request beside our own (`--certificate-request-additional-annotations`).
    pub annotations: BTreeMap<String, String>,
    /// Requests are kept, for a person to look at.
    pub preserve: bool,
    /// The roots that its chains end in.
    pub roots: RootsSpec,
    /// What both Kubernetes backends need.
    pub request: RequestSpec,
}

/// A ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConfigMapRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// cert-manager's `issuerRef`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IssuerRef {
    /// Its name.
    pub name: String,
    /// `Issuer`, `ClusterIssuer` or the kind of an external issuer.
    pub kind: String,
    /// `cert-manager.io`, or the group of an external issuer.
    pub group: String,
}

/// The life of a request that is an object of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSpec {
    /// How long the signer may take.
    pub deadline: Duration,
    /// How long an object whose client went away stays, so that a retry finds the answer.
    pub resume_window: Duration,
    /// A certificate of another lifetime than asked for is refused instead of served and reported.
    pub exact_lifetime: bool,
}

/// Who signs for a signer of the policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// A certificate authority of our own, from files.
    Local(LocalSpec),
    /// The Kubernetes CSR API.
    KubernetesCsr(KubernetesCsrSpec),
    /// cert-manager.
    CertManager(CertManagerSpec),
}

/// A certificate authority in a folder: `ca-cert.pem`, `ca-key.pem`, `root-cert.pem` and perhaps `cert-chain.pem`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSpec {
    /// The folder.
    pub dir: PathBuf,
    /// Make a self-signed authority there if the folder holds none.
    pub self_signed: bool,
}

// === impl SignerSpec ===

impl SignerSpec {
    /// Whether it asks the same backend in the same way, whatever its roots are.
    pub fn asks_like(&self, other: &Self) -> bool {
        self.without_roots() == other.without_roots()
    }

    fn without_roots(&self) -> Self {
        let mut bare = self.clone();
        bare.roots = None;
        match &mut bare.backend {
            Backend::Local(_) => {}
            Backend::KubernetesCsr(csr) => csr.roots = RootsSpec::Discover,
            Backend::CertManager(cert_manager) => cert_manager.roots = RootsSpec::Discover,
        }
        bare
    }
}

// === impl Backend ===

impl Backend {
    /// The life of its requests, where they are objects of the API server.
    pub fn request(&self) -> Option<&RequestSpec> {
        match self {
            Self::Local(_) => None,
            Self::KubernetesCsr(csr) => Some(&csr.request),
            Self::CertManager(cert_manager) => Some(&cert_manager.request),
        }
    }
}
