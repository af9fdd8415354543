//! One policy from what there is: the policy file, Istio's configuration, or both.
//!
//! The file is YAML of a fixed version, read whole or refused whole: unknown fields, unknown versions and references to
//! signers that do not exist are mistakes. Both sources together make one set of signers and one trust domain; where they
//! contradict each other that is a mistake too. All mistakes are reported at once, each with its line or its setting.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ensign_pki::{KeyType, TrustDomain};
use serde_saphyr::Spanned;

use super::defaults::Defaults;
use super::form::File;
use super::istio::{self, IstioSettings, IstioSigners, SignerChoice};
use super::limits::SignerLimits;
use super::mistakes::{Mistakes, PolicyError};
use super::rules::Rule;
use super::signers::{self, Common, Defined};
use super::ttl::TtlBounds;
use super::{Choice, Policy, Rootless, SignerPolicy};
use crate::mesh::Mesh;
use crate::yaml;

/// The version that this build reads.
pub const API_VERSION: &str = "ensign.mesh/v1";

/// What a policy is made of; at least one of file and Istio's configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sources<'a> {
    /// The text of the policy file.
    pub file: Option<&'a str>,
    /// Istio's configuration.
    pub istio: Option<Istio<'a>>,
    /// The trust domain of the settings.
    pub trust_domain: Option<&'a TrustDomain>,
}

/// Istio's configuration, and what the settings make of it.
#[derive(Debug, Clone, Copy)]
pub struct Istio<'a> {
    /// What it says.
    pub mesh: &'a Arc<Mesh>,
    /// How its signers are used.
    pub settings: &'a IstioSettings,
}

/// Defaults, floor and cap where a file is silent; the first two are Istio's.
const DEFAULT_TTL: Duration = Duration::from_hours(24);
const MAX_TTL: Duration = Duration::from_hours(2160);
const MIN_TTL: Duration = Duration::from_mins(10);
const BACKDATE: Duration = Duration::from_mins(2);
/// A NotBefore further back than this makes Istio's ztunnel, which renews at half of the whole validity, renew at once.
const MAX_BACKDATE: Duration = Duration::from_hours(1);
/// Istio's, where nobody says one.
const TRUST_DOMAIN: &str = "cluster.local";

pub(super) fn compose(sources: Sources<'_>) -> Result<Policy, PolicyError> {
    let file: Option<File> = sources.file.map(yaml::strict).transpose()?;
    let mut mistakes = Mistakes::default();
    let policy = build(file.as_ref(), sources, &mut mistakes);
    mistakes.finish(policy)
}

fn build(file: Option<&File>, sources: Sources<'_>, mistakes: &mut Mistakes) -> Option<Policy> {
    if let Some(file) = file.filter(|file| file.api_version.value != API_VERSION) {
        let seen = &file.api_version.value;
        let what = format!("apiVersion is {seen:?}, this build reads {API_VERSION:?}");
        mistakes.at(&file.api_version, what);
    }
    let trust_domain = trust_domain(file, sources, mistakes);
    // Without a trust domain no spec can be built; a stand-in lets the other mistakes be found in the same pass.
    let stand_in = trust_domain.clone().or_else(|| TRUST_DOMAIN.parse().ok())?;
    let common = common(file, &stand_in, sources.istio.map(|istio| &**istio.mesh), mistakes);
    let key_types = key_types(file.and_then(|file| file.key_types.as_deref()), mistakes);

    let mut parts = Parts::default();
    let forms = file.map_or(&[][..], |file| &file.signers);
    for form in forms {
        if !parts.names.insert(form.name.value.clone()) {
            mistakes.at(&form.name, format!("signer {:?} is defined twice", form.name.value));
        }
        parts.add(signers::read(form, &common, mistakes));
    }
    if sources.istio.is_none() && forms.is_empty() {
        mistakes.add("signers is empty: expected at least one");
    }
    let of_istio = |Istio { mesh, settings }: Istio<'_>| istio::signers(mesh, settings, forms, &common, mistakes);
    let IstioSigners {
        defined,
        k8s_signer,
        names,
    } = sources.istio.map(of_istio).unwrap_or_default();
    for signer in defined {
        parts.names.insert(signer.name().to_string());
        parts.add(Some(signer));
    }
    let any = sources.istio.map(|istio| istio.settings.choice) == Some(SignerChoice::AnyMeshSigner);
    let choice = match file {
        Some(file) => {
            let read = |form| Rule::read(form, &parts.names, mistakes);
            Choice::Rules(file.rules.iter().filter_map(read).collect())
        }
        None if any => Choice::Any(names),
        None => Choice::DefaultOnly,
    };
    if any && file.is_some() {
        mistakes.add("the policy file says who may use which signer, and --signer-choice says that anybody may use any: leave one of them out");
    }
    Some(Policy {
        trust_domain: trust_domain?,
        key_types,
        signers: parts.ready,
        rootless: parts.rootless,
        choice,
        defaults: Defaults {
            mesh: sources.istio.map(|istio| Arc::clone(istio.mesh)),
            k8s_signer,
        },
    })
}

#[derive(Default)]
struct Parts {
    names: BTreeSet<String>,
    ready: Vec<SignerPolicy>,
    rootless: Vec<Rootless>,
}

impl Parts {
    fn add(&mut self, signer: Option<Defined>) {
        match signer {
            Some(Defined::Ready(signer)) => self.ready.push(*signer),
            Some(Defined::Rootless(signer)) => self.rootless.push(signer),
            None => {}
        }
    }
}

/// The one that somebody says; nobody may contradict another.
fn trust_domain(file: Option<&File>, sources: Sources<'_>, mistakes: &mut Mistakes) -> Option<TrustDomain> {
    let in_file = file.and_then(|file| file.trust_domain.as_ref());
    let of_file: Option<TrustDomain> = match in_file {
        Some(form) => Some(mistakes.parse(form, "trustDomain")?),
        None => None,
    };
    let of_mesh = sources.istio.and_then(|istio| istio.mesh.trust_domain());
    let of_flag = sources.trust_domain;
    let said = [
        ("the policy file", of_file.as_ref()),
        ("--trust-domain", of_flag),
        ("the mesh configuration", of_mesh),
    ];
    let mut said = said.into_iter().filter_map(|(who, what)| Some((who, what?)));
    let Some((first, trust_domain)) = said.next() else {
        if sources.istio.is_some() {
            return TRUST_DOMAIN.parse().ok();
        }
        mistakes.add("trustDomain is missing: expected such as cluster.local");
        return None;
    };
    for (other, differs) in said.filter(|(_, other)| *other != trust_domain) {
        let what = format!(
            "the trust domain is {trust_domain} in {first} and {differs} in {other}: make them one, or say it in one place"
        );
        match in_file {
            Some(form) => mistakes.at(form, what),
            None => mistakes.add(what),
        }
    }
    Some(trust_domain.clone())
}

fn common<'a>(
    file: Option<&File>,
    trust_domain: &'a TrustDomain,
    mesh: Option<&'a Mesh>,
    mistakes: &mut Mistakes,
) -> Common<'a> {
    let fallback = [DEFAULT_TTL, MIN_TTL, MAX_TTL];
    let ttl = file.map_or(fallback, |file| signers::ttl_values(&file.ttl, fallback, mistakes));
    if let Err(why) = TtlBounds::new(ttl[0], ttl[1], ttl[2]) {
        mistakes.add(why);
    }
    let backdate = file.and_then(|file| file.backdate.as_ref());
    let backdate = mistakes.duration(backdate, "backdate", BACKDATE);
    if backdate > MAX_BACKDATE {
        mistakes.add(format!(
            "backdate is above {MAX_BACKDATE:?}: clients would renew at once"
        ));
    }
    let limits = SignerLimits::default();
    Common {
        trust_domain,
        ttl,
        limits: file.map_or(limits, |file| limits.changed_by(&file.limits, mistakes)),
        backdate,
        mesh,
    }
}

fn key_types(forms: Option<&[Spanned<String>]>, mistakes: &mut Mistakes) -> Vec<KeyType> {
    let Some(forms) = forms else {
        return vec![
            KeyType::P256,
            KeyType::P384,
            KeyType::Rsa2048,
            KeyType::Rsa3072,
            KeyType::Rsa4096,
        ];
    };
    if forms.is_empty() {
        mistakes.add("keyTypes is empty: expected at least one, or leave it out for all");
    }
    forms
        .iter()
        .filter_map(|form| mistakes.parse(form, "keyTypes"))
        .collect()
}
