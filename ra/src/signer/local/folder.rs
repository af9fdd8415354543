//! The files of a CA folder, as Istio lays them out (`cacerts`), and what they add up to.
//!
//! Owns the names of the files and the judgement of a whole set, from a folder or a Secret: the certificate is a CA, the
//! key belongs to it, and it leads to a root of the signer. Promises that a set is taken whole or refused whole, with the file named. Making a
//! set is `selfmade`'s business, watching one `daemon::watched_file`'s.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    str::Utf8Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ensign_daemon::watched_file::{Contents, FileSet};
use ensign_pki::{
    Bundle, BundleError, Certificate, CertificateError, Chain, ChainError, KeyError, KeyType, PrivateKey, SpiffeId,
    SpiffeIdError, SvidError, TrustDomain, verify_issued,
};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::issuer::{IssueError, Issuer, IssuerError, Leaf, Name, Purpose};
use crate::trust::{
    Roots,
    path::{self, NoRoot},
};

/// The issuing CA.
pub(crate) const CA_CERT: &str = "ca-cert.pem";
/// Its key: PKCS#8, PKCS#1 or SEC1.
pub(crate) const CA_KEY: &str = "ca-key.pem";
/// What stands between it and a root; optional.
pub(crate) const CERT_CHAIN: &str = "cert-chain.pem";
/// The root, unless the signer names a file of its own.
pub(crate) const ROOT_CERT: &str = "root-cert.pem";

/// Where the files of one local CA are.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    roots: PathBuf,
}

/// The parts of one local CA, wherever they were read.
pub(crate) struct Parts<'a> {
    /// All of it, for errors.
    pub(crate) place: String,
    /// The issuing certificate, perhaps with its chain after it.
    pub(crate) certificate: Named<'a>,
    /// Its key.
    pub(crate) key: Named<'a>,
    /// The roots.
    pub(crate) roots: Named<'a>,
    /// More of its chain.
    pub(crate) chain: Option<Named<'a>>,
}

/// A text, and what it is called in errors.
pub(crate) type Named<'a> = (String, &'a str);

/// A whole set, judged: who signs, and which roots go with it.
#[derive(Debug)]
pub(crate) struct Authority {
    /// Signs.
    pub(crate) issuer: Issuer,
    /// What its replies carry.
    pub(crate) roots: Arc<Roots>,
}

/// Why a set of files is no CA.
#[derive(Debug, Error)]
pub(crate) enum FolderError {
    /// Not text.
    #[error("{path} is not text; expected PEM")]
    Text {
        path: String,
        #[source]
        source: Utf8Error,
    },
    /// No certificates, or damaged ones.
    #[error("{path} holds a damaged certificate")]
    Certificates {
        path: String,
        #[source]
        source: CertificateError,
    },
    /// No certificate at all.
    #[error("{path} holds no certificate; expected the issuing CA's")]
    NoCertificate { path: String },
    /// The key cannot be read.
    #[error("{path} holds no key that can sign")]
    Key {
        path: String,
        #[source]
        source: KeyError,
    },
    /// The roots are no bundle.
    #[error("{path} is no bundle of roots")]
    Roots {
        path: String,
        #[source]
        source: BundleError,
    },
    /// Certificate and key are no CA.
    #[error("{dir} holds no CA that can be used")]
    Issuer {
        dir: String,
        #[source]
        source: IssuerError,
    },
    /// The CA leads to no root.
    #[error("the CA in {dir} and the roots in {roots} do not go together")]
    Path {
        dir: String,
        roots: String,
        #[source]
        source: NoRoot,
    },
    /// The root forbids so many CAs below it.
    #[error(
        "the root of the CA in {dir} allows {allowed} CAs below it, but there are {seen}; Envoy would refuse every certificate"
    )]
    PathLength { dir: String, allowed: u32, seen: usize },
    /// A leaf signed for trial could not be made.
    #[error("the CA in {dir} signs nothing")]
    Trial {
        dir: String,
        #[source]
        source: TrialError,
    },
    /// A leaf signed for trial does not verify.
    #[error(
        "what the CA in {dir} signs does not verify to the roots in {roots}; check its path length, name constraints and extended key usage"
    )]
    Unusable {
        dir: String,
        roots: String,
        #[source]
        source: Box<SvidError>,
    },
}

/// Why no trial leaf came about.
#[derive(Debug, Error)]
pub(crate) enum TrialError {
    /// No key for it.
    #[error("no trial key could be made")]
    Key(#[from] KeyError),
    /// No leaf.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// No id for it.
    #[error("no trial id could be made")]
    Id(#[from] SpiffeIdError),
    /// The chain is not read back.
    #[error("the trial chain cannot be read back")]
    Chain(#[from] ChainError),
}

// === impl Files ===

impl Files {
    /// The files in `dir`, with the roots in `roots` if the signer names such a file.
    pub(crate) fn new(dir: &Path, roots: Option<&Path>) -> Self {
        Self {
            dir: dir.to_owned(),
            roots: roots.map_or_else(|| dir.join(ROOT_CERT), Path::to_owned),
        }
    }

    /// What to watch.
    pub(crate) fn watched(&self, label: &'static str) -> FileSet {
        FileSet::file(label, self.dir.join(CA_CERT))
            .and(self.dir.join(CA_KEY))
            .and(&self.roots)
            .and_optional(self.dir.join(CERT_CHAIN))
    }

    /// Judges the contents of [`Files::watched`]. Blocking: signs once, for trial.
    pub(crate) fn judge(
        &self,
        contents: &Contents,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Authority, FolderError> {
        let key = self.dir.join(CA_KEY);
        let part = |path: &Path, index| Ok((shown(path), text(path, contents, index)?));
        let chain = match contents.optional(3) {
            Some(_) => Some(part(&self.dir.join(CERT_CHAIN), 3)?),
            None => None,
        };
        let parts = Parts {
            place: shown(&self.dir),
            certificate: part(&self.dir.join(CA_CERT), 0)?,
            key: part(&key, 1)?,
            roots: part(&self.roots, 2)?,
            chain,
        };
        let authority = parts.judge(trust_domain, now)?;
        warn_if_open(&key);
        Ok(authority)
    }
}

// === impl Parts ===

impl Parts<'_> {
    /// Judges them as one set. Blocking: signs once, for trial.
    pub(crate) fn judge(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Authority, FolderError> {
        // Istio signs with the first certificate of the file; what follows it can only be its chain.
        let mut others = certificates(&self.certificate)?;
        if others.is_empty() {
            return Err(FolderError::NoCertificate {
                path: self.certificate.0.clone(),
            });
        }
        let issuing = others.remove(0);
        let private = PrivateKey::from_pem(self.key.1).map_err(|source| FolderError::Key {
            path: self.key.0.clone(),
            source,
        })?;
        let roots = Roots::parse(self.roots.1).map_err(|source| FolderError::Roots {
            path: self.roots.0.clone(),
            source,
        })?;
        if let Some(chain) = &self.chain {
            others.extend(certificates(chain)?);
        }
        let path = path::to_root(&issuing, &others, roots.bundle()).map_err(|source| FolderError::Path {
            dir: self.place.clone(),
            roots: self.roots.0.clone(),
            source,
        })?;
        // Our own verifier takes a root as it is and does not look at its path length; Envoy's does.
        if let Some(allowed) = path_length(&path.root).filter(|allowed| path.intermediates.len() > *allowed as usize) {
            let seen = path.intermediates.len();
            return Err(FolderError::PathLength {
                dir: self.place.clone(),
                allowed,
                seen,
            });
        }
        let issuer = Issuer::new(issuing.der(), private, path).map_err(|source| FolderError::Issuer {
            dir: self.place.clone(),
            source,
        })?;
        self.try_out(&issuer, roots.bundle(), trust_domain, now)?;
        Ok(Authority {
            issuer,
            roots: Arc::new(roots),
        })
    }

    /// Signs a leaf that nobody gets, and checks it as every reply is checked.
    fn try_out(
        &self,
        issuer: &Issuer,
        roots: &Bundle,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<(), FolderError> {
        // A CA that is expired or not valid yet is in order otherwise: it loads, and says so at each request.
        let last = issuer.not_after().checked_sub(Duration::from_secs(2)).unwrap_or(now);
        let at = now.max(issuer.not_before()).min(last);
        let trial = || -> Result<_, TrialError> {
            let key = PrivateKey::generate(KeyType::P256)?;
            let id = SpiffeId::new(trust_domain, "ensign", "trial")?;
            let names = [Name::Uri(id.as_str())];
            let spki = key.spki_der();
            let leaf = Leaf {
                spki_der: &spki,
                rsa: false,
                names: &names,
                purpose: Purpose::Workload,
                ttl: Duration::from_mins(1),
                backdate: Duration::ZERO,
            };
            let leaf = issuer.issue(&leaf, at)?;
            let chain: Vec<_> = std::iter::once(leaf)
                .chain(issuer.intermediates().iter().cloned())
                .collect();
            Ok((Chain::from_ders(&chain)?, id, spki))
        };
        let (chain, id, spki) = trial().map_err(|source| FolderError::Trial {
            dir: self.place.clone(),
            source,
        })?;
        verify_issued(&chain, roots, &id, &spki, at)
            .map(drop)
            .map_err(|source| FolderError::Unusable {
                dir: self.place.clone(),
                roots: self.roots.0.clone(),
                source: Box::new(source),
            })
    }
}

fn certificates((path, pem): &Named<'_>) -> Result<Vec<Certificate>, FolderError> {
    Certificate::parse_all(pem).map_err(|source| FolderError::Certificates {
        path: path.clone(),
        source,
    })
}

fn path_length(root: &Certificate) -> Option<u32> {
    let (_, root) = X509Certificate::from_der(root.der()).ok()?;
    root.basic_constraints().ok().flatten()?.value.path_len_constraint
}

fn text<'a>(path: &Path, contents: &'a Contents, index: usize) -> Result<&'a str, FolderError> {
    contents.text(index).map_err(|source| FolderError::Text {
        path: shown(path),
        source,
    })
}

/// A mounted Secret is 0644 unless its volume says otherwise, inside a container that only we run in: so a plugged-in
/// key that others may read is worth a warning, not a refusal. (`selfmade` refuses what it made 0600 itself.)
#[expect(
    clippy::disallowed_methods,
    reason = "runs on the blocking thread that read the files"
)]
fn warn_if_open(key: &Path) {
    let Ok(metadata) = std::fs::metadata(key) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let mode = format!("{mode:04o}");
        tracing::warn!(path = %key.display(), mode, "the CA key is open to group or others, make it 0600 (a Secret volume: defaultMode 0400)");
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
