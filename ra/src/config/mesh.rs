//! Whether Istio's own configuration is followed, and istiod's settings that say how, under istiod's names.
//!
//! istiod's variables may be carried over as they are: each means the same here, or is refused with the reason. An empty
//! one counts as unset, as with istiod.

use std::time::Duration;

use clap::Args;
use ensign_daemon::GoDuration;
use ensign_daemon::settings::Checker;
use ensign_pki::TrustDomain;

use super::kubernetes::Noted;
use super::values::{duration, label};
use crate::mesh::{KubernetesSigner, SignerDomain};
use crate::policy::{IstioSettings, SignerChoice};

/// Istio's configuration as a source of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IstioConfig {
    /// The ConfigMap with the mesh configuration, in Istio's namespace.
    pub config_map: String,
    /// How its signers are used.
    pub settings: IstioSettings,
}

/// What the settings say of Istio.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// Istio's configuration, if it is followed.
    pub(super) istio: Option<IstioConfig>,
    /// The trust domain, if it is set here.
    pub(super) trust_domain: Option<TrustDomain>,
    /// The signer of istiod's own certificate.
    pub(super) istiod_signer: Option<KubernetesSigner>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct MeshArgs {
    /// ConfigMap of Istio's mesh configuration in --istio-namespace: `istio`, or `istio-` and a revision; followed only if set, or with --external-ca
    #[arg(long, env = "ENSIGN_RA_MESH_CONFIG_MAP", value_name = "NAME")]
    mesh_config_map: Option<String>,
    /// As in istiod: `ISTIOD_RA_KUBERNETES_API`, signers of the mesh configuration through the Kubernetes CSR API
    #[arg(long, env = "EXTERNAL_CA", value_name = "NAME")]
    external_ca: Option<String>,
    /// As in istiod: domain of the Kubernetes signers that workloads ask for by the rest of their names
    #[arg(long, env = "CERT_SIGNER_DOMAIN", value_name = "DOMAIN")]
    cert_signer_domain: Option<String>,
    /// As in istiod: full name of the Kubernetes signer of requests that name none
    #[arg(long, env = "K8S_SIGNER", value_name = "SIGNER")]
    k8s_signer: Option<String>,
    /// As in istiod: who signs istiod's own certificate; `k8s.io/` and the full name of a Kubernetes signer, else not our business
    #[arg(long, env = "PILOT_CERT_PROVIDER", default_value = "istiod", value_name = "PROVIDER")]
    pilot_cert_provider: String,
    /// Who may use a signer of the mesh configuration: `policy` (the policy file, or each its default alone), or `any-mesh-signer` (everybody all, as with istiod)
    #[arg(
        long,
        env = "ENSIGN_RA_SIGNER_CHOICE",
        default_value = "policy",
        value_name = "CHOICE"
    )]
    signer_choice: String,
    /// As in istiod: lifetime where none is asked for, of signers of the mesh configuration; unset: the policy's
    #[arg(long, env = "DEFAULT_WORKLOAD_CERT_TTL", value_name = "DURATION")]
    default_workload_cert_ttl: Option<String>,
    /// Longest lifetime, of signers of the mesh configuration; unset: the policy's. More is cut to it, not refused
    #[arg(long, env = "MAX_WORKLOAD_CERT_TTL", value_name = "DURATION")]
    max_workload_cert_ttl: Option<String>,
    /// Trust domain of all identities; unset: the policy file's or the mesh configuration's
    #[arg(long, env = "ENSIGN_RA_TRUST_DOMAIN", value_name = "NAME")]
    trust_domain: Option<String>,
}

impl MeshArgs {
    /// Notes each mistake; what it returns is right only if there was none.
    pub(super) fn check(&self, c: &mut Checker<'_>, policy_file: bool, kubernetes: bool) -> Option<Checked> {
        let config_map = self.config_map(c);
        let followed = said(self.mesh_config_map.as_deref()).is_some() || said(self.external_ca.as_deref()).is_some();
        if followed && !kubernetes {
            let (id, seen) = match said(self.mesh_config_map.as_deref()) {
                Some(name) => ("mesh_config_map", name),
                None => ("external_ca", EXTERNAL_CA),
            };
            c.refuse(
                id,
                seen,
                "an API server (--kubernetes)",
                "Istio's configuration is read there",
            );
        }
        if !followed {
            self.refuse_without_mesh(c, policy_file);
        }
        let choice = self.choice(c, policy_file, followed);
        let domain: Option<SignerDomain> = parsed(
            c,
            "cert_signer_domain",
            self.cert_signer_domain.as_deref(),
            "a domain of Kubernetes signers such as clusterissuers.cert-manager.io",
        );
        let k8s_signer: Option<KubernetesSigner> = parsed(
            c,
            "k8s_signer",
            self.k8s_signer.as_deref(),
            "a full name of a Kubernetes signer",
        );
        let trust_domain: Option<TrustDomain> = parsed(
            c,
            "trust_domain",
            self.trust_domain.as_deref(),
            "a trust domain such as cluster.local",
        );
        let istiod_signer = self.istiod_signer(c, kubernetes);
        let (default_ttl, max_ttl) = self.ttl(c);
        Some(Checked {
            istio: config_map.ok()?.map(|config_map| IstioConfig {
                config_map,
                settings: IstioSettings {
                    signer_domain: domain,
                    k8s_signer,
                    choice: choice.unwrap_or_default(),
                    default_ttl,
                    max_ttl,
                },
            }),
            trust_domain,
            istiod_signer: istiod_signer.ok()?,
        })
    }

    /// `None`: Istio's configuration is not followed.
    fn config_map(&self, c: &mut Checker<'_>) -> Result<Option<String>, Noted> {
        let external_ca = said(self.external_ca.as_deref());
        if let Some(other) = external_ca.filter(|name| *name != EXTERNAL_CA) {
            let why = "istiod has no other; leave it unset where the policy file alone names the signers";
            c.refuse("external_ca", other, EXTERNAL_CA, why);
            return Err(Noted);
        }
        match (said(self.mesh_config_map.as_deref()), external_ca) {
            (Some(name), _) => label(c, "mesh_config_map", name).map(Some).ok_or(Noted),
            (None, Some(_)) => Ok(Some(MESH_CONFIG_MAP.to_owned())),
            (None, None) => Ok(None),
        }
    }

    /// What would have no effect, and so is a misunderstanding.
    fn refuse_without_mesh(&self, c: &mut Checker<'_>, policy_file: bool) {
        if !policy_file {
            c.missing(
                "policy_file",
                "a path; or EXTERNAL_CA=ISTIOD_RA_KUBERNETES_API, to take the policy from Istio's configuration; or --issuer-name, for one issuer as with istio-csr",
            );
        }
        let meaningless = [
            ("cert_signer_domain", &self.cert_signer_domain),
            ("k8s_signer", &self.k8s_signer),
            ("default_workload_cert_ttl", &self.default_workload_cert_ttl),
            ("max_workload_cert_ttl", &self.max_workload_cert_ttl),
        ];
        for (id, value) in meaningless {
            if let Some(seen) = said(value.as_deref()) {
                let why = "it says how signers of Istio's mesh configuration are used, which is not followed";
                c.refuse(id, seen, "--external-ca or --mesh-config-map beside it", why);
            }
        }
    }

    fn choice(&self, c: &mut Checker<'_>, policy_file: bool, followed: bool) -> Option<SignerChoice> {
        match &*self.signer_choice {
            "policy" => Some(SignerChoice::Policy),
            any @ "any-mesh-signer" if policy_file => {
                let why = "the policy file says who may use which signer; leave one of them out";
                c.refuse("signer_choice", any, "no --policy-file beside it", why);
                None
            }
            any @ "any-mesh-signer" if !followed => {
                let why = "there are no signers of the mesh configuration";
                c.refuse(
                    "signer_choice",
                    any,
                    "--external-ca or --mesh-config-map beside it",
                    why,
                );
                None
            }
            "any-mesh-signer" => Some(SignerChoice::AnyMeshSigner),
            other => {
                c.refuse(
                    "signer_choice",
                    other,
                    "policy or any-mesh-signer",
                    "there is no such choice",
                );
                None
            }
        }
    }

    /// `None`: istiod's certificate comes from elsewhere.
    fn istiod_signer(&self, c: &mut Checker<'_>, kubernetes: bool) -> Result<Option<KubernetesSigner>, Noted> {
        const ID: &str = "pilot_cert_provider";
        const EXPECTED: &str = "istiod, k8s.io/ and the full name of a Kubernetes signer, custom or none";
        let seen = &*self.pilot_cert_provider;
        match seen.split_once('/') {
            Some(("k8s.io", signer)) => {
                let signer = c.check(ID, seen, EXPECTED, signer.parse()).ok_or(Noted)?;
                if !kubernetes {
                    c.refuse(
                        ID,
                        seen,
                        "an API server (--kubernetes)",
                        "the certificate is requested there",
                    );
                    return Err(Noted);
                }
                Ok(Some(signer))
            }
            None if matches!(seen, "" | "istiod" | "custom" | "none") => Ok(None),
            None if seen == "kubernetes" => {
                let why = "Kubernetes no longer signs for it, and istiod refuses it as well; name a signer";
                c.refuse(ID, seen, EXPECTED, why);
                Err(Noted)
            }
            _ => {
                c.refuse(ID, seen, EXPECTED, "there is no such provider");
                Err(Noted)
            }
        }
    }

    fn ttl(&self, c: &mut Checker<'_>) -> (Option<Duration>, Option<Duration>) {
        let mut read = |id, value: &Option<String>| {
            let seen = said(value.as_deref())?;
            let ttl = duration(c, id, seen, GoDuration::positive)?;
            if ttl < CSR_API_MIN {
                let why = "the Kubernetes CSR API issues nothing shorter";
                c.refuse(id, seen, "10m at least", why);
            }
            Some(ttl)
        };
        let default = read("default_workload_cert_ttl", &self.default_workload_cert_ttl);
        let max = read("max_workload_cert_ttl", &self.max_workload_cert_ttl);
        if let (Some(above), Some(max)) = (default, max)
            && above > max
        {
            let seen = self.default_workload_cert_ttl.as_deref().unwrap_or_default();
            c.refuse(
                "default_workload_cert_ttl",
                seen,
                "no more than MAX_WORKLOAD_CERT_TTL",
                "a default above the cap is never granted",
            );
        }
        (default, max)
    }
}

fn said(value: Option<&str>) -> Option<&str> {
    value.filter(|value| !value.is_empty())
}

fn parsed<T>(c: &mut Checker<'_>, id: &str, value: Option<&str>, expected: &str) -> Option<T>
where
    T: std::str::FromStr<Err: std::error::Error + 'static>,
{
    said(value).and_then(|seen| c.parse(id, seen, expected))
}

/// The one value that istiod knows.
const EXTERNAL_CA: &str = "ISTIOD_RA_KUBERNETES_API";
/// Where an installation without revisions keeps its mesh configuration.
const MESH_CONFIG_MAP: &str = "istio";
/// The least `spec.expirationSeconds` that the API server takes.
const CSR_API_MIN: Duration = Duration::from_mins(10);
