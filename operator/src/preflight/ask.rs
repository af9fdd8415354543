//! Has signers issue one certificate each, as an agent would for a pod of the account that the person named.
//!
//! Nothing of the policy is got round: the token is one that the person may request for that account, the identity is the
//! account's own, and the RA decides as always. The key is made here, for this one certificate, and both are dropped.

use std::net::SocketAddr;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use zeroize::Zeroizing;

use super::facts::{Agents, Answer, Asked, Facts, Refused};
use crate::access::{Access, bounded};
use crate::forward::Door;

/// For whom the certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// One question to the authority, whole.
pub struct Ask {
    /// Where a port of this machine leads to it.
    pub at: SocketAddr,
    /// The name that its certificate must bear.
    pub server_name: String,
    /// The roots that it must end in.
    pub roots_pem: String,
    /// The agents' cluster id.
    pub cluster_id: String,
    /// The agents' trust domain.
    pub trust_domain: String,
    /// For whom.
    pub account: Account,
    /// The account's token.
    pub token: Zeroizing<String>,
    /// Which signer; none is the authority's default.
    pub signer: Option<String>,
}

/// The agent's own client of the authority, which this crate does not know.
pub type AskAuthority<'a> = &'a (dyn Fn(Ask) -> BoxFuture<'static, Answer> + Sync);

/// Which signers there are to ask: those that the person named, else the default one and all that the RA has.
pub fn signers(facts: &Facts, named: &[String]) -> Vec<Option<String>> {
    if !named.is_empty() {
        return named.iter().cloned().map(Some).collect();
    }
    let known = facts.ra.there().into_iter().flat_map(|ra| &ra.signers.names);
    let all = known.cloned().map(Some);
    [None].into_iter().chain(all).collect()
}

/// Asks each signer once, one after the other. None if there is nobody to ask, which the facts tell.
pub async fn ask(
    access: &Access,
    facts: &Facts,
    account: &Account,
    signers: &[Option<String>],
    authority: AskAuthority<'_>,
) -> Option<Vec<Asked>> {
    let agents = facts.agents.there()?;
    let roots_pem = facts.roots.there()?.pem.clone()?;
    let service = facts.service.there()?;
    let (pod, port) = service.pods.first()?;
    let door = Door::new(access, &service.namespace, pod, *port);
    let mut asked = Vec::with_capacity(signers.len());
    for signer in signers {
        let answer = match token(access, account, &agents.audience).await {
            Err(refused) => Err(refused),
            Ok(token) => {
                let question = |at| {
                    authority(Ask {
                        at,
                        server_name: agents.authority.server_name.clone(),
                        roots_pem: roots_pem.clone(),
                        cluster_id: agents.cluster_id.clone(),
                        trust_domain: agents.trust_domain.clone(),
                        account: account.clone(),
                        token,
                        signer: signer.clone(),
                    })
                };
                let outcome = door.open(question).await;
                outcome.unwrap_or_else(|error| Err(refused("forward", error.to_string())))
            }
        };
        asked.push(Asked {
            account: account.to_string(),
            signer: signer.clone(),
            answer,
        });
    }
    Some(asked)
}

/// The account's token for the authority alone, of the shortest life that the API server gives.
async fn token(access: &Access, account: &Account, audience: &str) -> Result<Zeroizing<String>, Refused> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            bound_object_ref: None,
            expiration_seconds: Some(SHORTEST_LIFE),
        },
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(access.client(), &account.namespace);
    let parameters = PostParams::default();
    let answer = bounded(accounts.create_token_request(&account.name, &parameters, &request)).await;
    let answer = answer.map_err(|why| refused("token_request", why))?;
    let status = answer
        .status
        .ok_or_else(|| refused("token_request", "it has no status".to_owned()))?;
    Ok(Zeroizing::new(status.token))
}

fn refused(reason: &str, message: String) -> Refused {
    Refused {
        reason: reason.to_owned(),
        message,
        request_id: None,
    }
}

impl Agents {
    /// For the report's head.
    pub fn place(&self) -> String {
        format!("DaemonSet {}/{}", self.namespace, self.name)
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl std::str::FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            Some(_) | None => Err(AccountError),
        }
    }
}

/// Not an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected NAMESPACE/NAME of a service account")]
pub struct AccountError;

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask")
            .field("at", &self.at)
            .field("account", &self.account)
            .field("signer", &self.signer)
            .finish_non_exhaustive()
    }
}

/// Ten minutes (Kubernetes, TokenRequest).
const SHORTEST_LIFE: i64 = 600;
