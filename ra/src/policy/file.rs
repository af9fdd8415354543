//! The policy file: YAML of a fixed version, read whole or refused whole.
//!
//! Unknown fields, unknown versions and references to signers that do not exist are mistakes; all mistakes of a file
//! that can be read at all are reported at once, each with its line and the name that it is about. Nothing is read
//! from disk here: a path in the policy is checked when its signer is built.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use ensign_daemon::{GoDuration, redact};
use ensign_pki::{KeyType, TrustDomain};
use serde::Deserialize;
use serde_saphyr::Spanned;
use thiserror::Error;

use super::rules::{Names, Rule};
use super::spec::{Backend, LocalSpec, SignerSpec, is_dns_label, is_dns_subdomain};
use super::ttl::TtlBounds;
use super::{Policy, SignerPolicy};
use crate::signer::SignerName;

/// The version that this build reads.
pub const API_VERSION: &str = "ensign.mesh/v1";

/// What is wrong with a policy file.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// It is no YAML of this form: bad syntax, an unknown field, a field of the wrong type, one missing.
    #[error("the policy cannot be read: {0}")]
    Form(String),
    /// It can be read and contradicts itself or names what does not exist.
    #[error("the policy has {} mistake(s): {}", .0.len(), .0.join("; "))]
    Mistakes(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: Spanned<String>,
    trust_domain: Spanned<String>,
    #[serde(default)]
    ttl: Ttl,
    #[serde(default)]
    backdate: Option<Spanned<String>>,
    #[serde(default)]
    key_types: Option<Vec<Spanned<String>>>,
    signers: Vec<Signer>,
    rules: Vec<RuleForm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ttl {
    #[serde(default)]
    default: Option<Spanned<String>>,
    #[serde(default)]
    min: Option<Spanned<String>>,
    #[serde(default)]
    max: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Signer {
    name: Spanned<String>,
    #[serde(default)]
    local: Option<Local>,
    #[serde(default)]
    roots: Option<PathBuf>,
    #[serde(default)]
    ttl: Ttl,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Local {
    dir: PathBuf,
    #[serde(default)]
    self_signed: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleForm {
    namespace: Spanned<String>,
    service_accounts: Vec<Spanned<String>>,
    signers: Vec<Spanned<String>>,
    #[serde(default)]
    default: Option<Spanned<String>>,
}

/// Collects mistakes, so that a file with three of them is corrected in one go.
#[derive(Default)]
struct Mistakes(Vec<String>);

/// Defaults, floor and cap where a file is silent; the first two are Istio's.
const DEFAULT_TTL: Duration = Duration::from_hours(24);
const MAX_TTL: Duration = Duration::from_hours(2160);
const MIN_TTL: Duration = Duration::from_mins(10);
const BACKDATE: Duration = Duration::from_mins(2);
/// A NotBefore further back than this makes Istio's ztunnel, which renews at half of the whole validity, renew at once.
const MAX_BACKDATE: Duration = Duration::from_hours(1);

pub(super) fn parse(text: &str) -> Result<Policy, PolicyError> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| PolicyError::Form(one_line(&error)))?;
    let mut mistakes = Mistakes::default();
    let policy = build(&file, &mut mistakes);
    match policy {
        Some(policy) if mistakes.0.is_empty() => Ok(policy),
        _ => Err(PolicyError::Mistakes(mistakes.redacted())),
    }
}

fn build(file: &File, mistakes: &mut Mistakes) -> Option<Policy> {
    if file.api_version.value != API_VERSION {
        mistakes.at(
            &file.api_version,
            format!(
                "apiVersion is {:?}, this build reads {API_VERSION:?}",
                file.api_version.value
            ),
        );
    }
    let trust_domain: Option<TrustDomain> = parsed(&file.trust_domain, "trustDomain", mistakes);
    let fallback = [DEFAULT_TTL, MIN_TTL, MAX_TTL];
    let common = ttl_values(&file.ttl, fallback, mistakes);
    if let Err(why) = TtlBounds::new(common[0], common[1], common[2]) {
        mistakes.0.push(why);
    }
    let backdate = duration(file.backdate.as_ref(), "backdate", BACKDATE, mistakes);
    if backdate > MAX_BACKDATE {
        mistakes.0.push(format!(
            "backdate is above {MAX_BACKDATE:?}: clients would renew at once"
        ));
    }
    let key_types = key_types(file.key_types.as_deref(), mistakes);
    // Without a trust domain no spec can be built; a stand-in lets the other mistakes be found in the same pass.
    let stand_in = trust_domain.clone().or_else(|| "cluster.local".parse().ok())?;
    let mut seen = BTreeSet::new();
    let signers: Vec<SignerPolicy> = file
        .signers
        .iter()
        .filter_map(|form| signer(form, &stand_in, common, backdate, &mut seen, mistakes))
        .collect();
    if file.signers.is_empty() {
        mistakes.0.push("signers is empty: expected at least one".to_owned());
    }
    let rules: Vec<Rule> = file
        .rules
        .iter()
        .filter_map(|form| rule(form, &seen, mistakes))
        .collect();
    Some(Policy::new(trust_domain?, key_types, signers, rules))
}

fn signer(
    form: &Signer,
    trust_domain: &TrustDomain,
    common: [Duration; 3],
    backdate: Duration,
    seen: &mut BTreeSet<String>,
    mistakes: &mut Mistakes,
) -> Option<SignerPolicy> {
    let name: Option<SignerName> = parsed(&form.name, "signer", mistakes);
    let label = &form.name.value;
    if !seen.insert(label.clone()) {
        mistakes.at(&form.name, format!("signer {label:?} is defined twice"));
    }
    let paths = form.local.iter().map(|local| &local.dir).chain(&form.roots);
    for path in paths.filter(|path| redact::is_suspect(&path.to_string_lossy())) {
        let path = path.display();
        mistakes.at(
            &form.name,
            format!("`{path}` is no path but a secret: name the file or folder that holds it"),
        );
    }
    let values = ttl_values(&form.ttl, common, mistakes);
    // A cap of its own below the common default is a plain wish for shorter certificates, not a contradiction.
    let [default, min, max] = values;
    let default = if form.ttl.default.is_none() {
        default.clamp(min.min(max), max)
    } else {
        default
    };
    let ttl = match TtlBounds::new(default, min, max) {
        Ok(bounds) => Some(bounds),
        Err(why) => {
            mistakes.at(&form.name, format!("signer {label:?}: {why}"));
            None
        }
    };
    let Some(local) = &form.local else {
        mistakes.at(
            &form.name,
            format!("signer {label:?} has no backend: add `local: {{dir: …}}`"),
        );
        return None;
    };
    let spec = SignerSpec {
        name: name?,
        trust_domain: trust_domain.clone(),
        backend: Backend::Local(LocalSpec {
            dir: local.dir.clone(),
            self_signed: local.self_signed,
        }),
        roots: form.roots.clone(),
        backdate,
    };
    Some(SignerPolicy { spec, ttl: ttl? })
}

fn rule(form: &RuleForm, signers: &BTreeSet<String>, mistakes: &mut Mistakes) -> Option<Rule> {
    let namespace = names(
        std::slice::from_ref(&form.namespace),
        is_dns_label,
        "namespace",
        mistakes,
    );
    let accounts = names(&form.service_accounts, is_dns_subdomain, "serviceAccounts", mistakes);
    if form.signers.is_empty() {
        mistakes.at(
            &form.namespace,
            "the rule allows no signer: expected at least one".to_owned(),
        );
    }
    let mut allowed = Vec::new();
    for name in &form.signers {
        if signers.contains(&name.value) {
            allowed.extend(name.value.parse::<SignerName>().ok());
        } else {
            mistakes.at(
                name,
                format!("the rule allows signer {:?}, which is not defined", name.value),
            );
        }
    }
    let mut default = None;
    if let Some(name) = &form.default {
        if form.signers.iter().any(|allowed| allowed.value == name.value) {
            default = name.value.parse().ok();
        } else {
            mistakes.at(
                name,
                format!("the rule's default {:?} is not among its signers", name.value),
            );
        }
    }
    Some(Rule {
        namespaces: namespace?,
        accounts: accounts?,
        allowed,
        default,
    })
}

fn names(forms: &[Spanned<String>], valid: fn(&str) -> bool, what: &str, mistakes: &mut Mistakes) -> Option<Names> {
    if forms.iter().any(|form| form.value == "*") {
        if forms.len() > 1 {
            mistakes.at(
                &forms[0],
                format!("{what} has \"*\" beside names: expected one or the other"),
            );
        }
        return Some(Names::Any);
    }
    if forms.is_empty() {
        mistakes
            .0
            .push(format!("{what} of a rule is empty: expected names or \"*\""));
        return None;
    }
    for form in forms.iter().filter(|form| !valid(&form.value)) {
        mistakes.at(
            form,
            format!("{what}: {:?} is neither a Kubernetes name nor \"*\"", form.value),
        );
    }
    Some(Names::Exactly(forms.iter().map(|form| form.value.clone()).collect()))
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
        mistakes
            .0
            .push("keyTypes is empty: expected at least one, or leave it out for all".to_owned());
    }
    forms
        .iter()
        .filter_map(|form| parsed(form, "keyTypes", mistakes))
        .collect()
}

fn ttl_values(ttl: &Ttl, fallback: [Duration; 3], mistakes: &mut Mistakes) -> [Duration; 3] {
    [
        duration(ttl.default.as_ref(), "ttl.default", fallback[0], mistakes),
        duration(ttl.min.as_ref(), "ttl.min", fallback[1], mistakes),
        duration(ttl.max.as_ref(), "ttl.max", fallback[2], mistakes),
    ]
}

fn duration(form: Option<&Spanned<String>>, what: &str, fallback: Duration, mistakes: &mut Mistakes) -> Duration {
    let Some(form) = form else { return fallback };
    match form.value.parse().and_then(GoDuration::not_negative) {
        Ok(duration) => duration,
        Err(error) => {
            mistakes.at(form, format!("{what}: {error}"));
            fallback
        }
    }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    form: &Spanned<String>,
    what: &str,
    mistakes: &mut Mistakes,
) -> Option<T> {
    match form.value.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            mistakes.at(form, format!("{what}: {error}"));
            None
        }
    }
}

/// The parser draws the line with a marker below it; a log line and a status page want one line. It also quotes what
/// stands in the wrong place.
fn one_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let words: Vec<_> = text.split_whitespace().collect();
    redact::random_words(&words.join(" ")).into_owned()
}

// === impl Mistakes ===

impl Mistakes {
    /// They quote names and values: somebody's key or token, if it was pasted there.
    fn redacted(self) -> Vec<String> {
        let redacted = |mistake: String| redact::random_words(&mistake).into_owned();
        self.0.into_iter().map(redacted).collect()
    }

    fn at<T>(&mut self, place: &Spanned<T>, what: impl std::fmt::Display) {
        self.0.push(format!("line {}: {what}", place.referenced.line()));
    }
}
