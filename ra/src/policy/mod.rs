//! Which signer a workload may use, for how long and with which keys (I7): the operator's word.
//!
//! It comes from a file, from Istio's own configuration, or from both ([`Sources`]). A [`Policy`] is immutable and
//! complete: a request is judged by one of them from beginning to end, whatever is reloaded meanwhile. The signer that a
//! workload asks for is a wish within the policy, never more.
//! Left to others: building signers (`signer`), reading and watching what a policy is made of (`desk`, `mesh`).

mod compose;
mod defaults;
mod denial;
mod form;
mod istio;
mod limits;
mod mistakes;
mod roots;
mod rules;
mod signers;
mod spec;
mod ttl;

use ensign_pki::{KeyType, SignerName, TrustDomain};

pub use compose::{API_VERSION, Istio, Sources};
pub use defaults::ChosenBy;
pub use denial::Denial;
pub use istio::{IstioSettings, SignerChoice};
pub use limits::{Rate, SignerLimits};
pub use mistakes::PolicyError;
pub(crate) use signers::LONGEST_REQUEST;
pub use spec::{
    Backend, CertManagerSpec, ConfigMapRef, IssuerRef, KubernetesCsrSpec, LocalSpec, RequestSpec, RootsSpec, SignerSpec,
};
pub use ttl::{TtlBounds, TtlChange};

use self::defaults::{DefaultSigner, Defaults};
use self::rules::Rule;

/// A policy, valid in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    trust_domain: TrustDomain,
    key_types: Vec<KeyType>,
    signers: Vec<SignerPolicy>,
    rootless: Vec<Rootless>,
    choice: Choice,
    defaults: Defaults,
}

/// Who may use which signer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// As the rules of a file say.
    Rules(Vec<Rule>),
    /// Everybody its default, and nothing else.
    DefaultOnly,
    /// Everybody any of these.
    Any(Vec<SignerName>),
}

/// What a request wants, by a caller who is known.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Namespace of the identity.
    pub namespace: &'a str,
    /// Service account of the identity.
    pub service_account: &'a str,
    /// The signer asked for, if any.
    pub signer: Option<&'a SignerName>,
    /// The type of the key to be certified.
    pub key_type: KeyType,
    /// The lifetime asked for, in seconds; anything below 1 means none was.
    pub ttl_seconds: i64,
}

/// What the policy makes of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The signer to use.
    pub signer: SignerName,
    /// Who chose it.
    pub chosen_by: ChosenBy,
    /// The lifetime to ask of it.
    pub ttl: std::time::Duration,
    /// How that lifetime differs from the one asked for.
    pub ttl_change: TtlChange,
}

/// A signer with what it may be asked for. A change of its spec starts it anew; a change of the rest does not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SignerPolicy {
    spec: SignerSpec,
    ttl: TtlBounds,
    limits: SignerLimits,
}

/// A signer that has no roots, so nothing that it signs could be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rootless {
    name: SignerName,
    why: String,
}

// === impl Policy ===

impl Policy {
    /// Reads a policy file's text, where that is all there is.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        Self::compose(Sources {
            file: Some(text),
            ..Sources::default()
        })
    }

    /// Makes one policy of what there is.
    pub fn compose(sources: Sources<'_>) -> Result<Self, PolicyError> {
        compose::compose(sources)
    }

    /// The trust domain of every identity that this authority certifies.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The signers to build.
    pub fn signers(&self) -> impl Iterator<Item = &SignerSpec> {
        self.signers.iter().map(|signer| &signer.spec)
    }

    /// How much each of them may be asked at once.
    pub fn limits(&self) -> impl Iterator<Item = (&SignerName, SignerLimits)> {
        self.signers.iter().map(|signer| (&signer.spec.name, signer.limits))
    }

    /// Signers that are defined and refused to everybody, each with the reason: somebody should act.
    pub fn refused_signers(&self) -> impl Iterator<Item = (&SignerName, &str)> {
        self.rootless.iter().map(|signer| (&signer.name, &*signer.why))
    }

    /// Whether every workload may use every signer of the mesh configuration.
    pub fn is_any_mesh_signer(&self) -> bool {
        matches!(self.choice, Choice::Any(_))
    }

    /// Judges a wish.
    pub fn grant(&self, wish: Wish<'_>) -> Result<Grant, Denial> {
        if !self.key_types.contains(&wish.key_type) {
            return Err(Denial::KeyType(wish.key_type));
        }
        let (name, chosen_by) = match &self.choice {
            Choice::Rules(rules) => self.by_rules(rules, wish)?,
            Choice::DefaultOnly => self.by_default(&[], wish)?,
            Choice::Any(names) => self.by_default(names, wish)?,
        };
        let signer = self.ready(&name)?;
        let (ttl, ttl_change) = signer.ttl.grant(wish.ttl_seconds);
        Ok(Grant {
            signer: name,
            chosen_by,
            ttl,
            ttl_change,
        })
    }

    /// The first rule that fits decides alone.
    fn by_rules(&self, rules: &[Rule], wish: Wish<'_>) -> Result<(SignerName, ChosenBy), Denial> {
        let (namespace, service_account) = (wish.namespace, wish.service_account);
        let rule = rules
            .iter()
            .find(|rule| rule.matches(namespace, service_account))
            .ok_or_else(|| Denial::NoRule {
                namespace: namespace.to_owned(),
                service_account: service_account.to_owned(),
            })?;
        match (wish.signer.filter(|_| !rule.ignores_wish), &rule.default) {
            (Some(signer), _) if rule.allowed.contains(signer) => Ok((signer.clone(), ChosenBy::Request)),
            (Some(signer), _) => Err(wish.not_allowed(signer, &rule.allowed)),
            (None, Some(default)) => Ok((default.clone(), ChosenBy::Rule)),
            (None, None) => {
                let default = self.defaults.of(namespace).ok_or_else(|| Denial::NoDefault {
                    namespace: namespace.to_owned(),
                    service_account: service_account.to_owned(),
                    why: format!("its rule has none; it allows {}", list(&rule.allowed)),
                })?;
                match rule.allowed.iter().find(|name| name.as_str() == default.signer) {
                    Some(name) => Ok((name.clone(), default.by)),
                    None => Err(Denial::DefaultNotAllowed {
                        signer: default.shown(),
                        place: default.place,
                        namespace: namespace.to_owned(),
                        service_account: service_account.to_owned(),
                        allowed: list(&rule.allowed),
                    }),
                }
            }
        }
    }

    /// The default, or one of `others` that is asked for by name.
    fn by_default(&self, others: &[SignerName], wish: Wish<'_>) -> Result<(SignerName, ChosenBy), Denial> {
        let default = self.defaults.of(wish.namespace);
        match (wish.signer, default) {
            (Some(signer), _) if others.contains(signer) => Ok((signer.clone(), ChosenBy::Request)),
            (Some(signer), Some(default)) if default.signer == signer.as_str() => {
                Ok((self.known(default, wish)?.0, ChosenBy::Request))
            }
            (None, Some(default)) => self.known(default, wish),
            (Some(signer), default) => {
                let default = default.and_then(|default| default.signer.parse().ok());
                let allowed: Vec<_> = default.into_iter().chain(others.iter().cloned()).collect();
                Err(wish.not_allowed(signer, &allowed))
            }
            (None, None) => Err(Denial::NoDefault {
                namespace: wish.namespace.to_owned(),
                service_account: wish.service_account.to_owned(),
                why: "no ProxyConfig of its namespace or of the root namespace, no proxyMetadata of the mesh \
                      configuration and no K8S_SIGNER names one"
                    .to_owned(),
            }),
        }
    }

    /// A default as a signer that is defined.
    fn known(&self, default: DefaultSigner, wish: Wish<'_>) -> Result<(SignerName, ChosenBy), Denial> {
        let ready = self.signers.iter().map(|signer| &signer.spec.name);
        let mut all = ready.chain(self.rootless.iter().map(|signer| &signer.name));
        match all.find(|name| name.as_str() == default.signer) {
            Some(name) => Ok((name.clone(), default.by)),
            None => Err(Denial::UnknownDefault {
                signer: default.shown(),
                place: default.place,
                namespace: wish.namespace.to_owned(),
            }),
        }
    }

    /// Whoever is chosen is defined, and so has roots or is known to lack them.
    fn ready(&self, name: &SignerName) -> Result<&SignerPolicy, Denial> {
        self.signers
            .iter()
            .find(|signer| signer.spec.name == *name)
            .ok_or_else(|| {
                let rootless = self.rootless.iter().find(|signer| signer.name == *name);
                Denial::NoRoots {
                    signer: name.clone(),
                    why: rootless.map_or_else(|| "it is not defined".to_owned(), |signer| signer.why.clone()),
                }
            })
    }
}

// === impl Wish ===

impl Wish<'_> {
    fn not_allowed(&self, signer: &SignerName, allowed: &[SignerName]) -> Denial {
        Denial::SignerNotAllowed {
            signer: signer.clone(),
            namespace: self.namespace.to_owned(),
            service_account: self.service_account.to_owned(),
            allowed: list(allowed),
        }
    }
}

fn list(signers: &[SignerName]) -> String {
    if signers.is_empty() {
        return "none".to_owned();
    }
    signers.iter().map(SignerName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
