//! istiod's own certificate, with istio-csr's flags.

use std::time::Duration;

use clap::Args;
use ensign_daemon::settings::Checker;
use ensign_pki::SignerName;

use super::kubernetes::Noted;
use super::values::{key_type, label, positive, subdomain};
use crate::istiod::{IstiodConfig, IstiodNames, Provider};
use crate::mesh::KubernetesSigner;
use crate::signer::annotations;

/// istiod's certificate and who signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IstiodSettings {
    /// What it should be.
    pub config: IstiodConfig,
    /// Who signs it.
    pub signer: IstiodSigner,
}

/// Who signs istiod's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IstiodSigner {
    /// A signer of the policy behind cert-manager, by name or the only one.
    CertManager(Option<SignerName>),
    /// The signer of the policy for this Kubernetes signer.
    Kubernetes(KubernetesSigner),
}

#[derive(Debug, Clone, Args)]
pub(super) struct IstiodArgs {
    /// Keep a cert-manager Certificate for istiod (Secret `istiod-tls`), as istio-csr does
    #[arg(
        long,
        env = "ENSIGN_RA_ISTIOD_CERT_ENABLED",
        default_value = "false",
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    istiod_cert_enabled: String,
    /// Signer of the policy behind cert-manager whose issuer signs it; unset: the only one
    #[arg(long, env = "ENSIGN_RA_ISTIOD_CERT_SIGNER", value_name = "NAME")]
    istiod_cert_signer: Option<String>,
    /// Name of that Certificate
    #[arg(
        long,
        env = "ENSIGN_RA_ISTIOD_CERT_NAME",
        default_value = "istiod-dynamic",
        value_name = "NAME"
    )]
    istiod_cert_name: String,
    /// Namespace of istiod; unset: --istio-namespace
    #[arg(long, env = "ENSIGN_RA_ISTIOD_CERT_NAMESPACE", value_name = "NAME")]
    istiod_cert_namespace: Option<String>,
    /// Lifetime of istiod's certificate, also of one from a Kubernetes signer (--pilot-cert-provider)
    #[arg(
        long,
        env = "ENSIGN_RA_ISTIOD_CERT_DURATION",
        default_value = "1h",
        value_name = "DURATION"
    )]
    istiod_cert_duration: String,
    /// How long before its end cert-manager renews it; one from a Kubernetes signer is renewed at half of its life
    #[arg(
        long,
        env = "ENSIGN_RA_ISTIOD_CERT_RENEW_BEFORE",
        default_value = "30m",
        value_name = "DURATION"
    )]
    istiod_cert_renew_before: String,
    /// `RSA` or `ECDSA`; unset: RSA from cert-manager, ECDSA where the RA makes the key
    #[arg(long, env = "ENSIGN_RA_ISTIOD_CERT_KEY_ALGORITHM", value_name = "NAME")]
    istiod_cert_key_algorithm: Option<String>,
    /// Its size; unset: 2048 for RSA, 256 for ECDSA
    #[arg(long, env = "ENSIGN_RA_ISTIOD_CERT_KEY_SIZE", value_name = "BITS")]
    istiod_cert_key_size: Option<String>,
    /// DNS names beside those of istiod's Services
    #[arg(
        long,
        env = "ENSIGN_RA_ISTIOD_CERT_ADDITIONAL_DNS_NAMES",
        value_name = "LIST",
        value_delimiter = ','
    )]
    istiod_cert_additional_dns_names: Vec<String>,
    /// Annotations of that Certificate: `k=v,k2=v2`
    #[arg(
        long,
        env = "ENSIGN_RA_ISTIOD_CERT_ADDITIONAL_ANNOTATIONS",
        value_name = "MAP",
        value_delimiter = ','
    )]
    istiod_cert_additional_annotations: Vec<String>,
    /// Revisions of istiod: each is a name `istiod-<revision>.<namespace>.svc`; unset: `default`
    #[arg(
        long,
        env = "ENSIGN_RA_ISTIOD_CERT_ISTIO_REVISIONS",
        value_name = "LIST",
        value_delimiter = ','
    )]
    istiod_cert_istio_revisions: Vec<String>,
}

impl IstiodArgs {
    /// `None`: istiod's certificate is not our business.
    pub(super) fn check(
        &self,
        c: &mut Checker<'_>,
        istio_namespace: Option<&str>,
        provider: Option<&KubernetesSigner>,
    ) -> Result<Option<IstiodSettings>, Noted> {
        let enabled: bool = c
            .parse("istiod_cert_enabled", &self.istiod_cert_enabled, "true or false")
            .ok_or(Noted)?;
        let signer = match (enabled, provider) {
            (false, None) => return Ok(None),
            (true, Some(provider)) => {
                let seen = format!("k8s.io/{provider}");
                let why = "istiod has one certificate: either from cert-manager, or from a Kubernetes signer";
                c.refuse(
                    "pilot_cert_provider",
                    &seen,
                    "nothing beside --istiod-cert-enabled",
                    why,
                );
                return Err(Noted);
            }
            (false, Some(provider)) => IstiodSigner::Kubernetes(provider.clone()),
            (true, None) => IstiodSigner::CertManager(self.cert_manager(c)?),
        };
        let Some(istio_namespace) = istio_namespace else {
            let why = "istiod's certificate is an object of the API server";
            c.refuse(
                "istiod_cert_enabled",
                &self.istiod_cert_enabled,
                "an API server (--kubernetes)",
                why,
            );
            return Err(Noted);
        };
        let namespace = self.istiod_cert_namespace.as_deref().unwrap_or(istio_namespace);
        let namespace = label(c, "istiod_cert_namespace", namespace);
        let revisions = labels(c, "istiod_cert_istio_revisions", &self.istiod_cert_istio_revisions);
        let more = subdomains(
            c,
            "istiod_cert_additional_dns_names",
            &self.istiod_cert_additional_dns_names,
        );
        let ttl = positive(c, "istiod_cert_duration", &self.istiod_cert_duration);
        let provider = if enabled {
            self.certificate(c, ttl)
        } else {
            Some(Provider::Secret)
        };
        let key_type = self.key_type(c, enabled);
        let settings = || {
            Some(IstiodSettings {
                config: IstiodConfig {
                    provider: provider?,
                    names: IstiodNames {
                        namespace: namespace?,
                        revisions: revisions?,
                        more: more?,
                    },
                    key_type: key_type?,
                    ttl: ttl?,
                },
                signer,
            })
        };
        settings().ok_or(Noted).map(Some)
    }

    fn cert_manager(&self, c: &mut Checker<'_>) -> Result<Option<SignerName>, Noted> {
        let Some(name) = &self.istiod_cert_signer else {
            return Ok(None);
        };
        let name = c.parse("istiod_cert_signer", name, "the name of a signer of the policy");
        name.ok_or(Noted).map(Some)
    }

    fn certificate(&self, c: &mut Checker<'_>, ttl: Option<Duration>) -> Option<Provider> {
        let name = subdomain(c, "istiod_cert_name", &self.istiod_cert_name);
        let renew_before = positive(c, "istiod_cert_renew_before", &self.istiod_cert_renew_before);
        let seen = self.istiod_cert_additional_annotations.join(",");
        let annotations = c.check(
            "istiod_cert_additional_annotations",
            &seen,
            "KEY=VALUE with commas between them",
            annotations::parse(&seen),
        );
        if ttl.is_some_and(|ttl| ttl < CERT_MANAGER_MIN) {
            let why = "cert-manager takes no shorter one for a Certificate";
            c.refuse("istiod_cert_duration", &self.istiod_cert_duration, "1h at least", why);
        }
        if ttl.zip(renew_before).is_some_and(|(ttl, before)| before >= ttl) {
            let seen = &self.istiod_cert_renew_before;
            let expected = format!("less than --istiod-cert-duration, {}", self.istiod_cert_duration);
            c.refuse(
                "istiod_cert_renew_before",
                seen,
                &expected,
                "it would be renewed all the time",
            );
        }
        Some(Provider::Certificate {
            name: name?,
            renew_before: renew_before?,
            annotations: annotations?,
        })
    }

    /// cert-manager makes every key; ours are those of this build.
    fn key_type(&self, c: &mut Checker<'_>, cert_manager: bool) -> Option<ensign_pki::KeyType> {
        let default = if cert_manager { "RSA" } else { "ECDSA" };
        let algorithm = self.istiod_cert_key_algorithm.as_deref().unwrap_or(default);
        let size = self.istiod_cert_key_size.as_deref();
        let kind = key_type(
            c,
            ("istiod_cert_key_algorithm", algorithm),
            ("istiod_cert_key_size", size),
        )?;
        if cert_manager {
            return Some(kind);
        }
        let made = kind.ensure_generatable().map(|()| kind);
        c.check(
            "istiod_cert_key_algorithm",
            algorithm,
            "an algorithm of this build",
            made,
        )
    }
}

fn labels(c: &mut Checker<'_>, id: &str, seen: &[String]) -> Option<Vec<String>> {
    let said = seen.iter().filter(|text| !text.is_empty());
    said.map(|text| label(c, id, text))
        .collect::<Vec<_>>()
        .into_iter()
        .collect()
}

fn subdomains(c: &mut Checker<'_>, id: &str, seen: &[String]) -> Option<Vec<String>> {
    let said = seen.iter().filter(|text| !text.is_empty());
    said.map(|text| subdomain(c, id, text))
        .collect::<Vec<_>>()
        .into_iter()
        .collect()
}

/// cert-manager's documentation of Certificate, `spec.duration`.
const CERT_MANAGER_MIN: Duration = Duration::from_hours(1);
