//! The signers that a policy file defines: from their form to specs.
//!
//! A signer has one backend, and what belongs to another backend is a mistake. Nothing is read from disk or from the
//! API server here: what a spec names is looked for when its signer is built. The one exception is `roots: {mesh: true}`,
//! whose roots are in hand; without any the signer is defined and refused to everybody.

use std::path::PathBuf;
use std::time::Duration;

use ensign_daemon::redact;
use ensign_pki::dns_name::{is_label, is_subdomain};
use ensign_pki::{SignerName, TrustDomain};
use serde_saphyr::Spanned;

use super::form::{CertManager, KubernetesCsr, Local, Signer, Ttl};
use super::limits::SignerLimits;
use super::mistakes::Mistakes;
use super::roots::{self, CERT_MANAGER, Found, one_source, signer_of_issuer};
use super::spec::{
    Backend, CertManagerSpec, ConfigMapRef, IssuerRef, KubernetesCsrSpec, LocalSpec, RequestSpec, RootsSpec, SignerSpec,
};
use super::ttl::TtlBounds;
use super::{Rootless, SignerPolicy};
use crate::mesh::{KubernetesSigner, Mesh};
use crate::signer::annotations;

/// What all signers of one policy share.
#[derive(Debug)]
pub(super) struct Common<'a> {
    pub(super) trust_domain: &'a TrustDomain,
    /// Default, floor and cap.
    pub(super) ttl: [Duration; 3],
    pub(super) limits: SignerLimits,
    pub(super) backdate: Duration,
    pub(super) mesh: Option<&'a Mesh>,
}

/// A signer of the policy.
#[derive(Debug)]
pub(super) enum Defined {
    Ready(Box<SignerPolicy>),
    Rootless(Rootless),
}

// === impl Defined ===

impl Defined {
    pub(super) fn name(&self) -> &SignerName {
        match self {
            Self::Ready(signer) => &signer.spec.name,
            Self::Rootless(signer) => &signer.name,
        }
    }
}

pub(super) fn read(form: &Signer, common: &Common<'_>, mistakes: &mut Mistakes) -> Option<Defined> {
    let name: Option<SignerName> = mistakes.parse(&form.name, "signer");
    refuse_secrets(form, mistakes);
    let ttl = bounds(form, common.ttl, mistakes);
    let limits = common.limits.changed_by(&form.limits, mistakes);
    let backend = match (&form.local, &form.kubernetes_csr, &form.cert_manager) {
        (Some(local), None, None) => self::local(form, local, mistakes).map(Ok),
        (None, Some(csr), None) => kubernetes_csr(form, csr, common, mistakes),
        (None, None, Some(cert_manager)) => self::cert_manager(form, cert_manager, common, mistakes),
        (None, None, None) => {
            let label = &form.name.value;
            let what = format!(
                "signer {label:?} has no backend: add `local: {{dir: …}}`, `kubernetesCsr: {{signerName: …}}` or `certManager: {{…}}`"
            );
            mistakes.at(&form.name, what);
            None
        }
        _ => {
            let what = format!("signer {:?} has more than one backend: expected one", form.name.value);
            mistakes.at(&form.name, what);
            None
        }
    };
    let (name, ttl) = (name?, ttl?);
    Some(match backend? {
        Ok((backend, roots)) => Defined::Ready(Box::new(SignerPolicy {
            spec: SignerSpec {
                name,
                trust_domain: common.trust_domain.clone(),
                backend,
                roots,
                backdate: common.backdate,
            },
            ttl,
            limits,
        })),
        Err(why) => Defined::Rootless(Rootless { name, why }),
    })
}

fn refuse_secrets(form: &Signer, mistakes: &mut Mistakes) {
    let roots = form.roots.as_ref().and_then(|roots| roots.value.file.as_ref());
    let paths = form.local.iter().map(|local| &local.dir).chain(roots);
    for path in paths.filter(|path| redact::is_suspect(&path.to_string_lossy())) {
        let path = path.display();
        mistakes.at(
            &form.name,
            format!("`{path}` is no path but a secret: name the file or folder that holds it"),
        );
    }
}

fn bounds(form: &Signer, common: [Duration; 3], mistakes: &mut Mistakes) -> Option<TtlBounds> {
    let (label, ttl) = (&form.name.value, &form.ttl);
    let [mut default, mut min, max] = ttl_values(ttl, common, mistakes);
    if form.kubernetes_csr.is_some() && min < CSR_API_MIN {
        if let Some(stated) = &ttl.min {
            let what = format!(
                "signer {label:?}: ttl.min {min:?} is below {CSR_API_MIN:?}, the least that the Kubernetes CSR API takes"
            );
            mistakes.at(stated, what);
        }
        min = CSR_API_MIN;
    }
    // A cap of its own below the common default is a plain wish for shorter certificates, not a contradiction.
    if ttl.default.is_none() {
        default = default.clamp(min.min(max), max);
    }
    match TtlBounds::new(default, min, max) {
        Ok(bounds) => Some(bounds),
        Err(why) => {
            mistakes.at(&form.name, format!("signer {label:?}: {why}"));
            None
        }
    }
}

/// Default, floor and cap; `fallback` where the file is silent.
pub(super) fn ttl_values(ttl: &Ttl, fallback: [Duration; 3], mistakes: &mut Mistakes) -> [Duration; 3] {
    [
        mistakes.duration(ttl.default.as_ref(), "ttl.default", fallback[0]),
        mistakes.duration(ttl.min.as_ref(), "ttl.min", fallback[1]),
        mistakes.duration(ttl.max.as_ref(), "ttl.max", fallback[2]),
    ]
}

type Built = Option<Result<(Backend, Option<PathBuf>), String>>;

fn local(form: &Signer, local: &Local, mistakes: &mut Mistakes) -> Option<(Backend, Option<PathBuf>)> {
    let of_kubernetes = [
        ("lifetime", &form.lifetime),
        ("deadline", &form.deadline),
        ("resumeWindow", &form.resume_window),
    ];
    for (name, value) in of_kubernetes {
        if let Some(value) = value {
            mistakes.at(
                value,
                format!("{name} is for kubernetesCsr and certManager: a local signer answers at once"),
            );
        }
    }
    let mut path = None;
    if let Some(roots) = &form.roots {
        one_source(roots, mistakes)?;
        path.clone_from(&roots.value.file);
        if path.is_none() {
            let what = "roots of a local signer are a path, or left out for root-cert.pem in its folder";
            mistakes.at(roots, what);
        }
    }
    let backend = Backend::Local(LocalSpec {
        dir: local.dir.clone(),
        self_signed: local.self_signed,
    });
    Some((backend, path))
}

fn kubernetes_csr(form: &Signer, csr: &KubernetesCsr, common: &Common<'_>, mistakes: &mut Mistakes) -> Built {
    let signer_name: Option<KubernetesSigner> = mistakes.parse(&csr.signer_name, "signerName");
    let request = request(form, mistakes);
    let roots = roots::read(form, signer_name.as_ref(), common, mistakes);
    if let (Some(Found::Spec(RootsSpec::Discover)), Some(place)) = (&roots, &form.roots) {
        mistakes.at(
            place,
            "roots: discover is for certManager: the Kubernetes CSR API does not say what signed a certificate",
        );
    }
    let (signer_name, request) = (signer_name?, request?);
    Some(match roots? {
        Found::Spec(roots) => Ok((
            Backend::KubernetesCsr(KubernetesCsrSpec {
                signer_name: signer_name.to_string(),
                approve: csr.approve,
                roots,
                request,
            }),
            None,
        )),
        Found::NoneInMesh(why) => Err(why),
    })
}

fn cert_manager(form: &Signer, section: &CertManager, common: &Common<'_>, mistakes: &mut Mistakes) -> Built {
    let namespace = checked(&section.namespace, is_label, "certManager.namespace", mistakes);
    let request = request(form, mistakes);
    let issuer = match &section.issuer {
        None => None,
        Some(issuer) => {
            let or = |form: &Option<Spanned<String>>, other: &str| {
                form.as_ref()
                    .map_or_else(|| other.to_owned(), |form| form.value.clone())
            };
            if let Some(group) = &issuer.group {
                checked(group, is_subdomain, "issuer.group", mistakes)?;
            }
            if let Some(kind) = issuer.kind.as_ref().filter(|kind| !is_kind(&kind.value)) {
                mistakes.at(
                    kind,
                    format!(
                        "issuer.kind: {:?} is no kind, expected such as ClusterIssuer",
                        kind.value
                    ),
                );
            }
            Some(IssuerRef {
                name: checked(&issuer.name, is_subdomain, "issuer.name", mistakes)?,
                kind: or(&issuer.kind, "Issuer"),
                group: or(&issuer.group, CERT_MANAGER),
            })
        }
    };
    let runtime_issuer = match &section.runtime_issuer {
        None => None,
        Some(form) => Some(ConfigMapRef {
            namespace: checked(&form.namespace, is_label, "runtimeIssuer.namespace", mistakes)?,
            name: checked(&form.name, is_subdomain, "runtimeIssuer.name", mistakes)?,
        }),
    };
    for key in section.annotations.keys() {
        if let Err(error) = annotations::check(key) {
            mistakes.at(&section.namespace, format!("certManager.annotations: {error}"));
        }
    }
    let namespace = namespace?;
    let as_signer = issuer.as_ref().and_then(|issuer| signer_of_issuer(issuer, &namespace));
    let roots = roots::read(form, as_signer.as_ref(), common, mistakes);
    let request = request?;
    Some(match roots? {
        Found::Spec(roots) => Ok((
            Backend::CertManager(CertManagerSpec {
                namespace,
                issuer,
                runtime_issuer,
                annotations: section.annotations.clone(),
                preserve: section.preserve,
                roots,
                request,
            }),
            None,
        )),
        Found::NoneInMesh(why) => Err(why),
    })
}

fn request(form: &Signer, mistakes: &mut Mistakes) -> Option<RequestSpec> {
    let mut span = |form: Option<&Spanned<String>>, what, fallback| {
        let duration = mistakes.duration(form, what, fallback);
        if let Some(form) = form.filter(|_| duration > LONGEST_REQUEST) {
            mistakes.at(
                form,
                format!("{what} is above {LONGEST_REQUEST:?}: by then Kubernetes removes the request"),
            );
        }
        duration
    };
    let deadline = span(form.deadline.as_ref(), "deadline", DEADLINE);
    let resume_window = span(form.resume_window.as_ref(), "resumeWindow", RESUME_WINDOW);
    if let Some(form) = form.deadline.as_ref().filter(|_| deadline.is_zero()) {
        mistakes.at(form, "deadline is 0: expected a positive duration");
    }
    let exact_lifetime = match form.lifetime.as_ref().map(|form| (form, &*form.value)) {
        None | Some((_, "any")) => false,
        Some((_, "exact")) => true,
        Some((form, other)) => {
            mistakes.at(form, format!("lifetime is {other:?}: expected `any` or `exact`"));
            return None;
        }
    };
    Some(RequestSpec {
        deadline,
        resume_window,
        exact_lifetime,
    })
}

fn checked(form: &Spanned<String>, valid: fn(&str) -> bool, what: &str, mistakes: &mut Mistakes) -> Option<String> {
    if valid(&form.value) {
        return Some(form.value.clone());
    }
    mistakes.at(form, format!("{what}: {:?} is no Kubernetes name", form.value));
    None
}

fn is_kind(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The least `spec.expirationSeconds` that the API server takes.
pub(super) const CSR_API_MIN: Duration = Duration::from_mins(10);
/// Longer than a person takes who watches requests come in, shorter than anybody waits for a pod.
pub(super) const DEADLINE: Duration = Duration::from_mins(5);
/// Longer than any client of ours waits before it asks again.
pub(super) const RESUME_WINDOW: Duration = Duration::from_mins(5);
/// The longest deadline that a signer may have: kube-controller-manager removes requests that nobody decided on after a day.
pub(crate) const LONGEST_REQUEST: Duration = Duration::from_hours(24);
