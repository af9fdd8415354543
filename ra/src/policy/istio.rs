//! The signers that Istio's own configuration defines, as istiod would use them.
//!
//! Each signer of the domain `CERT_SIGNER_DOMAIN` that `caCertificates` or the mesh's `proxyMetadata` names is a signer by
//! the name behind the slash, through the Kubernetes CSR API; so is `K8S_SIGNER`, which serves requests without a name.
//! ProxyConfig objects choose among them and define none: whoever may write one in his namespace is not the operator.

use std::collections::BTreeMap;
use std::time::Duration;

use ensign_pki::SignerName;

use super::Rootless;
use super::SignerPolicy;
use super::form;
use super::mistakes::Mistakes;
use super::roots::mesh_roots;
use super::signers::{CSR_API_MIN, Common, DEADLINE, Defined, RESUME_WINDOW};
use super::spec::{Backend, KubernetesCsrSpec, RequestSpec, RootsSpec, SignerSpec};
use super::ttl::TtlBounds;
use crate::mesh::{KubernetesSigner, Mesh, SignerDomain};

/// What istiod's settings say of the signers of Istio's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IstioSettings {
    /// `CERT_SIGNER_DOMAIN`: a workload's `foo` is the Kubernetes signer `<domain>/foo`.
    pub signer_domain: Option<SignerDomain>,
    /// `K8S_SIGNER`: who signs where no name is given.
    pub k8s_signer: Option<KubernetesSigner>,
    /// Who may choose.
    pub choice: SignerChoice,
    /// `DEFAULT_WORKLOAD_CERT_TTL`.
    pub default_ttl: Option<Duration>,
    /// `MAX_WORKLOAD_CERT_TTL`.
    pub max_ttl: Option<Duration>,
}

/// Which signer a workload may ask for by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SignerChoice {
    /// What the policy file says; without a file the workload's default alone.
    #[default]
    Policy,
    /// Every signer of the mesh configuration, as with istiod: no workload is held to its own.
    AnyMeshSigner,
}

/// The signers of Istio's configuration that the policy file does not describe itself.
#[derive(Debug, Default)]
pub(super) struct IstioSigners {
    pub(super) defined: Vec<Defined>,
    /// By which name requests without one are signed.
    pub(super) k8s_signer: Option<SignerName>,
    /// Names that workloads may ask for where any may.
    pub(super) names: Vec<SignerName>,
}

pub(super) fn signers(
    mesh: &Mesh,
    settings: &IstioSettings,
    file: &[form::Signer],
    common: &Common<'_>,
    mistakes: &mut Mistakes,
) -> IstioSigners {
    let mut found = BTreeMap::<SignerName, KubernetesSigner>::new();
    if let Some(domain) = &settings.signer_domain {
        let listed = mesh.cert_signers().filter(|signer| signer.domain() == domain).cloned();
        // A name that the file defines is that signer, whatever the domain.
        let defined = |name: &str| file.iter().any(|form| form.name.value == name);
        let metadata = mesh.proxy_metadata().filter(|name| !name.is_empty() && !defined(name));
        let metadata = metadata.and_then(|name| KubernetesSigner::of(domain, name).ok());
        for signer in listed.chain(metadata) {
            if let Ok(name) = signer.path().parse() {
                found.insert(name, signer);
            }
        }
    }
    let names = found.keys().cloned().collect();
    let k8s_signer = settings.k8s_signer.as_ref().and_then(|signer| {
        // The operator may have described it in the file, by whatever name.
        if let Some(form) = file.iter().find(|form| described(form).is_some_and(|full| full == signer.to_string())) {
            return form.name.value.parse().ok();
        }
        let name: SignerName = signer.path().parse().ok()?;
        match found.insert(name.clone(), signer.clone()) {
            Some(other) if other != *signer => mistakes.add(format!(
                "K8S_SIGNER {signer} and {other} of the mesh configuration would both be signer {name}: define K8S_SIGNER's in the policy file under another name"
            )),
            _ => {}
        }
        Some(name)
    });
    let bounds = bounds(settings, common, mistakes);
    let mut defined = Vec::new();
    for (name, signer) in found {
        let mut forms = file.iter().filter(|form| form.name.value == name.as_str());
        if let Some(form) = forms.next() {
            // The same signer, described more closely than Istio's configuration can.
            if described(form).is_none_or(|full| full != signer.to_string()) {
                let what = format!(
                    "signer {name:?} is {signer} in the mesh configuration and something else here: give it another name, or `kubernetesCsr: {{signerName: {signer}}}`",
                    name = name.as_str()
                );
                mistakes.at(&form.name, what);
            }
            continue;
        }
        let Some(ttl) = bounds else { continue };
        match mesh_roots(mesh, &signer, common.trust_domain) {
            Ok(Ok(pem)) => {
                let spec = spec(name, &signer, RootsSpec::Pem(pem), common);
                defined.push(Defined::Ready(Box::new(SignerPolicy {
                    spec,
                    ttl,
                    limits: common.limits,
                })));
            }
            Ok(Err(why)) => defined.push(Defined::Rootless(Rootless { name, why })),
            Err(why) => mistakes.add(why),
        }
    }
    IstioSigners {
        defined,
        k8s_signer,
        names,
    }
}

/// The full name of the Kubernetes signer that a signer of the file describes.
fn described(form: &form::Signer) -> Option<&str> {
    form.kubernetes_csr.as_ref().map(|csr| &*csr.signer_name.value)
}

fn spec(name: SignerName, signer: &KubernetesSigner, roots: RootsSpec, common: &Common<'_>) -> SignerSpec {
    SignerSpec {
        name,
        trust_domain: common.trust_domain.clone(),
        backend: Backend::KubernetesCsr(KubernetesCsrSpec {
            signer_name: signer.to_string(),
            // As istiod, which has no setting for it; the policy file has.
            approve: true,
            roots,
            request: RequestSpec {
                deadline: DEADLINE,
                resume_window: RESUME_WINDOW,
                exact_lifetime: false,
            },
        }),
        roots: None,
        backdate: common.backdate,
    }
}

fn bounds(settings: &IstioSettings, common: &Common<'_>, mistakes: &mut Mistakes) -> Option<TtlBounds> {
    let [default, min, max] = common.ttl;
    let (min, max) = (min.max(CSR_API_MIN), settings.max_ttl.unwrap_or(max));
    let default = settings.default_ttl.unwrap_or_else(|| default.clamp(min.min(max), max));
    match TtlBounds::new(default, min, max) {
        Ok(bounds) => Some(bounds),
        Err(why) => {
            mistakes.add(format!(
                "signers of the mesh configuration: {why} (DEFAULT_WORKLOAD_CERT_TTL, MAX_WORKLOAD_CERT_TTL)"
            ));
            None
        }
    }
}
