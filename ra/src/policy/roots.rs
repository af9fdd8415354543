//! Where the roots of a signer behind the API server come from, as a policy file says it.
//!
//! Files and objects are only named here and looked for when the signer is built. Roots of Istio's mesh configuration are in
//! hand, and go with the policy that was made of it: so what a policy grants and what its answers are judged by change
//! in one step.

use std::sync::Arc;

use ensign_pki::TrustDomain;
use ensign_pki::dns_name::{is_label, is_subdomain};
use serde_saphyr::Spanned;

use super::form::{Roots, Signer};
use super::mistakes::Mistakes;
use super::signers::Common;
use super::spec::{IssuerRef, RootsSpec};
use crate::mesh::{KubernetesSigner, Mesh};

/// Where roots come from, looked up as far as they are in hand.
pub(super) enum Found {
    Spec(RootsSpec),
    NoneInMesh(String),
}

/// `signer` is the name by which Istio's mesh configuration knows the signer.
pub(super) fn read(
    form: &Signer,
    signer: Option<&KubernetesSigner>,
    common: &Common<'_>,
    mistakes: &mut Mistakes,
) -> Option<Found> {
    let label = &form.name.value;
    let Some(place) = &form.roots else {
        let what = format!(
            "signer {label:?} has no roots: they cannot be had from the signer, so name a file, `{{configMap: …}}`, `{{clusterTrustBundle: …}}` or `{{mesh: true}}`"
        );
        mistakes.at(&form.name, what);
        return None;
    };
    let source = one_source(place, mistakes)?;
    let roots = &place.value;
    let spec = match source {
        "file" => RootsSpec::File(roots.file.clone()?),
        "configMap" => {
            let from = roots.config_map.as_ref()?;
            let key =
                |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            if !is_label(&from.namespace) || !is_subdomain(&from.name) || !key(&from.key) {
                let what = format!(
                    "roots: {}/{} key {:?} is no key of a ConfigMap",
                    from.namespace, from.name, from.key
                );
                mistakes.at(place, what);
                return None;
            }
            RootsSpec::ConfigMap {
                namespace: from.namespace.clone(),
                name: from.name.clone(),
                key: from.key.clone(),
            }
        }
        "clusterTrustBundle" => {
            let name = roots.cluster_trust_bundle.clone()?;
            // Its name begins with that of its signer, whose slash is written as a colon.
            if !name.split(':').all(is_subdomain) {
                mistakes.at(place, format!("roots: {name:?} is no name of a ClusterTrustBundle"));
                return None;
            }
            RootsSpec::ClusterTrustBundle { name }
        }
        "discover" => RootsSpec::Discover,
        _ => return from_mesh(place, label, signer, common, mistakes),
    };
    Some(Found::Spec(spec))
}

fn from_mesh(
    place: &Spanned<Roots>,
    label: &str,
    signer: Option<&KubernetesSigner>,
    common: &Common<'_>,
    mistakes: &mut Mistakes,
) -> Option<Found> {
    let Some(mesh) = common.mesh else {
        mistakes.at(
            place,
            "roots: mesh needs Istio's mesh configuration, which is not read (--mesh-config-map)",
        );
        return None;
    };
    let Some(signer) = signer else {
        let what = format!(
            "roots: mesh needs an issuer that has a name as a Kubernetes signer (an Issuer or ClusterIssuer of {CERT_MANAGER}); signer {label:?} has none"
        );
        mistakes.at(place, what);
        return None;
    };
    match mesh_roots(mesh, signer, common.trust_domain) {
        Ok(found) => Some(found.map_or_else(Found::NoneInMesh, |pem| Found::Spec(RootsSpec::Pem(pem)))),
        Err(why) => {
            mistakes.add(why);
            None
        }
    }
}

/// The roots that the mesh configuration has for a signer; `Ok(Err)` says what it lacks, `Err` what is wrong with it.
pub(super) fn mesh_roots(
    mesh: &Mesh,
    signer: &KubernetesSigner,
    trust_domain: &TrustDomain,
) -> Result<Result<Arc<str>, String>, String> {
    match mesh.roots(signer, trust_domain) {
        Ok(Some(bundle)) => Ok(Ok(bundle.to_pem().into())),
        Ok(None) => Ok(Err(format!(
            "the mesh configuration has no root for {signer}; add one to caCertificates with `certSigners: [{signer}]`"
        ))),
        Err(error) => Err(format!("mesh configuration: the roots of {signer}: {error}")),
    }
}

/// The one key of a roots mapping.
pub(super) fn one_source(roots: &Spanned<Roots>, mistakes: &mut Mistakes) -> Option<&'static str> {
    let form = &roots.value;
    let said = [
        ("file", form.file.is_some()),
        ("configMap", form.config_map.is_some()),
        ("clusterTrustBundle", form.cluster_trust_bundle.is_some()),
        ("mesh", form.mesh.is_some()),
        ("discover", form.discover.is_some()),
    ];
    let mut named = said.iter().filter(|(_, said)| *said).map(|(name, _)| *name);
    let (first, second) = (named.next(), named.next());
    let refused = form.mesh == Some(false) || form.discover == Some(false);
    if let (Some(source), None, false) = (first, second, refused) {
        return Some(source);
    }
    mistakes.at(
        roots,
        "roots: expected a path, or exactly one of file, configMap, clusterTrustBundle, `mesh: true` and `discover: true`",
    );
    None
}

/// The name that cert-manager itself gives an issuer as a Kubernetes signer
/// (<https://cert-manager.io/docs/usage/kube-csr/>).
pub(super) fn signer_of_issuer(issuer: &IssuerRef, namespace: &str) -> Option<KubernetesSigner> {
    let name = &issuer.name;
    match (&*issuer.kind, &*issuer.group) {
        ("ClusterIssuer", CERT_MANAGER) => format!("clusterissuers.{CERT_MANAGER}/{name}").parse().ok(),
        ("Issuer", CERT_MANAGER) => format!("issuers.{CERT_MANAGER}/{namespace}.{name}").parse().ok(),
        _ => None,
    }
}

pub(super) const CERT_MANAGER: &str = "cert-manager.io";
