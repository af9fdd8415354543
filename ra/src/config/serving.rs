//! Where the serving certificate comes from.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ensign_daemon::GoDuration;
use ensign_daemon::settings::Checker;
use ensign_pki::KeyType;

use super::values::{duration, key_type, label, list, path, positive, subdomain};
use crate::serving::{IssuedConfig, ServingSource};

#[derive(Debug, Clone, Args)]
pub(super) struct ServingArgs {
    /// Serving certificate chain, from elsewhere (PEM, watched); with --serving-key-file
    #[arg(long, env = "ENSIGN_RA_SERVING_CERT_FILE", value_name = "PATH")]
    serving_cert_file: Option<String>,
    /// Key of the serving certificate (PEM, watched)
    #[arg(long, env = "ENSIGN_RA_SERVING_KEY_FILE", value_name = "PATH")]
    serving_key_file: Option<String>,
    /// Roots of that certificate, for the namespaces (PEM, watched); unset: a root in its chain
    #[arg(long, env = "ENSIGN_RA_SERVING_CA_FILE", value_name = "PATH")]
    serving_ca_file: Option<String>,
    /// Instead of a certificate from elsewhere: folder of a CA for the serving certificate alone, made if empty
    #[arg(long, env = "ENSIGN_RA_SERVING_CA_DIR", value_name = "DIR")]
    serving_ca_dir: Option<String>,
    /// Where the root of the CA in that folder is written for clients (their CA_ROOT_CA)
    #[arg(long, env = "ENSIGN_RA_SERVING_ROOT_FILE", value_name = "PATH")]
    serving_root_file: Option<String>,
    /// The same in a Secret of our own namespace for all replicas, made once if absent; Istio's `cacerts` layout
    #[arg(long, env = "ENSIGN_RA_SERVING_CA_SECRET", value_name = "NAME")]
    serving_ca_secret: Option<String>,
    /// `cert-manager`: instead of all these, from a signer of the policy behind cert-manager, as istio-csr has it
    #[arg(long, env = "ENSIGN_RA_SERVING_FROM", value_name = "WHERE")]
    serving_from: Option<String>,
    /// That signer; unset: the only one behind cert-manager
    #[arg(long, env = "ENSIGN_RA_SERVING_SIGNER", value_name = "NAME")]
    serving_signer: Option<String>,
    /// Secret of our own namespace that keeps what that signer gave, for all replicas and over restarts
    #[arg(
        long,
        env = "ENSIGN_RA_SERVING_SECRET",
        default_value = "ensign-ra-serving",
        value_name = "NAME"
    )]
    serving_secret: String,
    /// Lifetime to ask that signer for; renewed at two thirds of it
    #[arg(
        long,
        short = 't',
        env = "ENSIGN_RA_SERVING_CERTIFICATE_DURATION",
        default_value = "1h",
        value_name = "DURATION"
    )]
    serving_certificate_duration: String,
    /// Key for that certificate: `ECDSA`, or `RSA` in a build that makes RSA keys
    #[arg(
        long,
        env = "ENSIGN_RA_SERVING_SIGNATURE_ALGORITHM",
        default_value = "ECDSA",
        value_name = "NAME"
    )]
    serving_signature_algorithm: String,
    /// Its size; unset: 256 for ECDSA, 2048 for RSA
    #[arg(long, env = "ENSIGN_RA_SERVING_CERTIFICATE_KEY_SIZE", value_name = "BITS")]
    serving_certificate_key_size: Option<String>,
    /// Names in the serving certificate that a CA of ours or that signer issues
    #[arg(
        long,
        visible_alias = "serving-certificate-dns-names",
        env = "ENSIGN_RA_SERVING_DNS_NAMES",
        default_value = "istiod.istio-system.svc,ensign-ra.ensign-system.svc,localhost",
        value_name = "LIST",
        value_delimiter = ','
    )]
    serving_dns_names: Vec<String>,
    /// How long a new root of it is with the namespaces before a certificate under it is shown
    #[arg(
        long,
        env = "ENSIGN_RA_SERVING_ROOT_OVERLAP",
        default_value = "5m",
        value_name = "DURATION"
    )]
    serving_root_overlap: String,
}

/// The ways to name a source; exactly one is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Files,
    Folder,
    Secret,
    CertManager,
}

impl ServingArgs {
    pub(super) fn check(&self, c: &mut Checker<'_>) -> Option<ServingSource> {
        let overlap = duration(
            c,
            "serving_root_overlap",
            &self.serving_root_overlap,
            GoDuration::not_negative,
        );
        let source = self.source(c)?;
        let beside = [
            ("serving_ca_file", &self.serving_ca_file, Source::Files),
            ("serving_root_file", &self.serving_root_file, Source::Folder),
            ("serving_signer", &self.serving_signer, Source::CertManager),
            (
                "serving_certificate_key_size",
                &self.serving_certificate_key_size,
                Source::CertManager,
            ),
        ];
        for (id, seen, of) in beside {
            if let Some(seen) = seen.as_ref().filter(|_| of != source) {
                let expected = format!("nothing beside {}", c.name(source.id()));
                let why = format!("it goes with {} only; leave it out", c.name(of.id()));
                c.refuse(id, seen, &expected, &why);
            }
        }
        match source {
            Source::Files => {
                let certificate = path(c, "serving_cert_file", self.serving_cert_file.as_deref());
                let key = path(c, "serving_key_file", self.serving_key_file.as_deref());
                Some(ServingSource::Files {
                    certificate: certificate?,
                    key: key?,
                    roots: self.serving_ca_file.as_ref().map(PathBuf::from),
                })
            }
            Source::Folder => {
                let dir = path(c, "serving_ca_dir", self.serving_ca_dir.as_deref());
                let names = list(c, "serving_dns_names", &self.serving_dns_names.join(","));
                Some(ServingSource::OwnCa {
                    dir: dir?,
                    names: names?,
                    root_file: self.serving_root_file.as_ref().map(PathBuf::from),
                })
            }
            Source::Secret => {
                let name = label(
                    c,
                    "serving_ca_secret",
                    self.serving_ca_secret.as_deref().unwrap_or_default(),
                );
                let names = list(c, "serving_dns_names", &self.serving_dns_names.join(","));
                Some(ServingSource::CaSecret {
                    name: name?,
                    names: names?,
                    overlap: overlap?,
                })
            }
            Source::CertManager => self.issued(c, overlap).map(ServingSource::Issued),
        }
    }

    fn issued(&self, c: &mut Checker<'_>, overlap: Option<Duration>) -> Option<IssuedConfig> {
        let from = self.serving_from.as_deref().unwrap_or_default();
        if from != "cert-manager" {
            let why = "leave it out to use a file, a folder or a Secret";
            c.refuse("serving_from", from, "cert-manager", why);
        }
        let signer = match &self.serving_signer {
            Some(name) => c
                .parse("serving_signer", name, "the name of a signer of the policy")
                .map(Some),
            None => Some(None),
        };
        let secret = subdomain(c, "serving_secret", &self.serving_secret);
        let names = list(c, "serving_dns_names", &self.serving_dns_names.join(","));
        let ttl = positive(c, "serving_certificate_duration", &self.serving_certificate_duration);
        let key_type = self.key_type(c);
        Some(IssuedConfig {
            signer: signer?,
            secret: secret?,
            names: names?,
            key_type: key_type?,
            ttl: ttl?,
            overlap: overlap?,
        })
    }

    /// istio-csr's two flags, checked now and not by a loop of failures later.
    fn key_type(&self, c: &mut Checker<'_>) -> Option<KeyType> {
        let (algorithm, size) = (
            self.serving_signature_algorithm.as_str(),
            self.serving_certificate_key_size.as_deref(),
        );
        let kind = key_type(
            c,
            ("serving_signature_algorithm", algorithm),
            ("serving_certificate_key_size", size),
        )?;
        let made = kind.ensure_generatable().map(|()| kind);
        c.check(
            "serving_signature_algorithm",
            algorithm,
            "an algorithm of this build",
            made,
        )
    }

    /// The one that is named. None, several and half of one are mistakes.
    fn source(&self, c: &mut Checker<'_>) -> Option<Source> {
        let (cert, key) = (&self.serving_cert_file, &self.serving_key_file);
        let mut one = true;
        match (cert, key) {
            (Some(seen), None) => {
                let why = "a certificate needs its key";
                c.refuse("serving_cert_file", seen, "--serving-key-file beside it", why);
                one = false;
            }
            (None, Some(seen)) => {
                let why = "a key needs its certificate";
                c.refuse("serving_key_file", seen, "--serving-cert-file beside it", why);
                one = false;
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        let named = [
            (Source::Files, if cert.is_some() { cert } else { key }),
            (Source::Folder, &self.serving_ca_dir),
            (Source::Secret, &self.serving_ca_secret),
            (Source::CertManager, &self.serving_from),
        ];
        let mut named = named
            .into_iter()
            .filter_map(|(source, seen)| Some((source, seen.as_ref()?)));
        let Some((source, _)) = named.next() else {
            let others =
                "a folder, or --serving-ca-secret, or --serving-from, or --serving-cert-file with --serving-key-file";
            c.missing("serving_ca_dir", others);
            return None;
        };
        for (other, seen) in named {
            let expected = format!("either this or {}", c.name(source.id()));
            c.refuse(
                other.id(),
                seen,
                &expected,
                "the serving certificate comes from one place",
            );
            one = false;
        }
        one.then_some(source)
    }
}

impl Source {
    /// The setting that names it.
    fn id(self) -> &'static str {
        match self {
            Self::Files => "serving_cert_file",
            Self::Folder => "serving_ca_dir",
            Self::Secret => "serving_ca_secret",
            Self::CertManager => "serving_from",
        }
    }
}
