//! What was seen of a cluster.

use crate::access::Looked;
use crate::driver::Driver;

/// Everything that counts before a pod is made.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The DaemonSet.
    pub agents: Looked<Agents>,
    /// The value of `pod-security.kubernetes.io/enforce` on its namespace; missing if it is not set.
    pub pod_security: Looked<String>,
    /// Whether a ResourceQuota of its namespace is for its priority class.
    pub quota: Looked<bool>,
    /// Whether the cluster is GKE, which admits critical pods only under such a quota.
    pub gke: bool,
    /// The CSIDriver.
    pub driver: Looked<Driver>,
    /// The roots of the authority's certificate.
    pub roots: Looked<Roots>,
    /// What the authority's address leads to.
    pub service: Looked<Service>,
    /// Our RA's Deployment; missing if the authority is another, such as istiod.
    pub ra: Looked<Ra>,
}

/// The agents, and what they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agents {
    /// Their namespace.
    pub namespace: String,
    /// The DaemonSet's name.
    pub name: String,
    /// Nodes that should have one.
    pub desired: i32,
    /// Those that exist.
    pub current: i32,
    /// Those that are ready.
    pub ready: i32,
    /// Their priority class.
    pub priority_class: Option<String>,
    /// The audience of the tokens that they take.
    pub audience: String,
    /// Their trust domain.
    pub trust_domain: String,
    /// Their cluster's id.
    pub cluster_id: String,
    /// The authority.
    pub authority: Authority,
}

/// The authority as the agents know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// `CA_ADDR`, its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The name that its certificate must bear.
    pub server_name: String,
}

/// The roots, as the agents will have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// ConfigMap and key.
    pub place: String,
    /// The text; none if the key is not there.
    pub pem: Option<String>,
}

/// The Service behind the authority's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<u16>,
    /// Ready pods behind the port, and their port.
    pub pods: Vec<(String, u16)>,
}

/// Our RA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ra {
    /// Its namespace.
    pub namespace: String,
    /// The audiences of which a token must have one.
    pub audiences: Vec<String>,
    /// Its signers.
    pub signers: Signers,
}

/// The signers of an RA, as far as they can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers {
    /// What workloads call them: those of the policy file, then those of Istio's mesh configuration alone.
    pub names: Vec<String>,
    /// Why there may be others.
    pub unread: Vec<String>,
}

/// What came of one question.
pub type Answer = Result<Issued, Refused>;

/// One signer that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// For whom.
    pub account: String,
    /// Which; none is the authority's default.
    pub signer: Option<String>,
    /// What came of it.
    pub answer: Answer,
}

/// A certificate that is fit to be served, and is gone by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Its identity.
    pub id: String,
    /// Its end, RFC 3339.
    pub until: String,
}

/// None.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// One word, as in the agent's status.
    pub reason: String,
    /// The whole story.
    pub message: String,
    /// What the authority calls the request.
    pub request_id: Option<String>,
}
