//! What a world is made of: signers, rules, workloads, and settings of both programs.

use std::{collections::BTreeMap, fmt, time::Duration};

/// What a world holds at its start.
#[derive(Debug, Clone, Default)]
pub struct WorldSpec {
    /// Signers of the RA.
    pub signers: Vec<Signer>,
    /// Who may use which signer.
    pub rules: Vec<Rule>,
    /// Workloads of the node.
    pub workloads: Vec<Workload>,
    /// Further environment of the agents; wins over what `files` sets.
    pub agent: BTreeMap<String, String>,
    /// Further arguments of the RA.
    pub ra: Vec<String>,
    /// Folder of the programs' logs within the world's; the world's own if none. A log beside files that are watched
    /// wakes the watcher with every line.
    pub logs: Option<String>,
    /// Environment of the RA.
    pub ra_env: BTreeMap<String, String>,
    /// The cluster that it belongs to; without one, tokens, policy and signers are files.
    pub cluster: Option<ClusterPlace>,
}

/// What a world has from a cluster. Its policy file is written only if it has rules.
#[derive(Clone, Default)]
pub struct ClusterPlace {
    /// The RA's kubeconfig, as text.
    pub kubeconfig: String,
    /// Each workload's token, by its name in the file.
    pub tokens: BTreeMap<String, String>,
    /// Where the RA has its serving certificate from: flags, instead of a CA in the world's folder. Its root is then for
    /// the caller to give to the agents ([`World::give_root`](super::World::give_root)).
    pub serving: Vec<String>,
}

/// One rule of the policy, for all accounts of a namespace.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Namespace.
    pub namespace: String,
    /// Signers that its workloads may use.
    pub signers: Vec<String>,
    /// The signer of a request that names none.
    pub default: Option<String>,
}

/// One workload of the agent's file.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Name in the file; its service account has the same name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Signer fixed by the operator.
    pub signer: Option<String>,
    /// Key type set by the operator, for example `P-384`.
    pub key_type: Option<String>,
    /// The node that it is on, from 0: each has an agent of its own.
    pub node: usize,
}

/// A signer of the RA.
#[derive(Debug, Clone)]
pub struct Signer {
    /// Its name, as workloads see it.
    pub name: String,
    /// Folder of its CA, within the world's.
    pub ca: String,
    /// The name of a root that is plugged in, with an intermediate below it; the RA makes a CA of its own if none. Two of
    /// one name have one subject and different keys.
    pub plugged_in: Option<String>,
    /// File of the roots that replies carry, within the world's folder; the CA's own root if none.
    pub roots: Option<String>,
}

// === impl WorldSpec ===

impl WorldSpec {
    /// Two namespaces `foo` and `bar`, each with a signer of its name and no other; a workload's wish decides, for there is
    /// no default.
    pub fn foo_and_bar(workloads: &[(&str, &str)]) -> Self {
        let names = ["foo", "bar"].map(str::to_owned);
        Self {
            rules: names
                .iter()
                .map(|name| Rule {
                    namespace: name.clone(),
                    signers: vec![name.clone()],
                    default: None,
                })
                .collect(),
            signers: names
                .iter()
                .map(|name| Signer::new(name, &format!("ca-{name}")))
                .collect(),
            workloads: workloads
                .iter()
                .map(|(namespace, name)| Workload {
                    name: (*name).to_owned(),
                    namespace: (*namespace).to_owned(),
                    signer: None,
                    key_type: None,
                    node: 0,
                })
                .collect(),
            ..Self::default()
        }
    }

    /// With one more variable for the agents.
    #[must_use]
    pub fn agent_env(mut self, name: &str, value: &str) -> Self {
        self.agent.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Certificates of an hour that are due about `after` their issue, drawn with almost no jitter.
    #[must_use]
    pub fn renewing_after(self, after: Duration) -> Self {
        let ratio = 1.0 - after.as_secs_f64() / 3600.0;
        self.agent_env("SECRET_TTL", "1h")
            .agent_env("SECRET_GRACE_PERIOD_RATIO", &format!("{ratio:.6}"))
            .agent_env("SECRET_GRACE_PERIOD_RATIO_JITTER", "0.0001")
            .agent_env("ENSIGN_FETCH_FLOOR", "500ms")
    }

    /// Renewals as fast as the floor allows. The certificates themselves live for long enough that no stalled machine
    /// lets one expire: only the ratio makes each due at once.
    #[must_use]
    pub fn rotating_every(self, floor: &str) -> Self {
        self.agent_env("SECRET_TTL", "1h")
            .agent_env("SECRET_GRACE_PERIOD_RATIO", "0.9998")
            .agent_env("SECRET_GRACE_PERIOD_RATIO_JITTER", "0.0001")
            .agent_env("ENSIGN_FETCH_FLOOR", floor)
    }

    /// With a workload moved to another node.
    #[must_use]
    pub fn on_node(mut self, node: usize, name: &str) -> Self {
        for workload in self.workloads.iter_mut().filter(|workload| workload.name == name) {
            workload.node = node;
        }
        self
    }

    /// With the key type of a workload set by the operator.
    #[must_use]
    pub fn with_keys(mut self, name: &str, key_type: &str) -> Self {
        for workload in self.workloads.iter_mut().filter(|workload| workload.name == name) {
            workload.key_type = Some(key_type.to_owned());
        }
        self
    }

    /// How many agents there are.
    pub(super) fn nodes(&self) -> usize {
        self.workloads
            .iter()
            .map(|workload| workload.node)
            .max()
            .unwrap_or_default()
            + 1
    }
}

// === impl ClusterPlace ===

impl fmt::Debug for ClusterPlace {
    /// All of it is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterPlace").finish_non_exhaustive()
    }
}

// === impl Signer ===

impl Signer {
    /// A signer with the CA in this folder.
    pub fn new(name: &str, ca: &str) -> Self {
        Self {
            name: name.to_owned(),
            ca: ca.to_owned(),
            plugged_in: None,
            roots: None,
        }
    }

    /// With a CA made by the operator, whose root has this name.
    #[must_use]
    pub fn plugged_in(mut self, root: &str) -> Self {
        self.plugged_in = Some(root.to_owned());
        self
    }
}
