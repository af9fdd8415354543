//! What kubelet asks to be published, read strictly: the pod, its wishes, its token.
//!
//! Whoever writes a pod writes its volume attributes, so they are an attacker's input: three keys have a meaning, each a form,
//! and anything else is refused rather than passed over. What begins with `csi.storage.k8s.io/` is kubelet's: it writes over whatever a
//! pod put there (seen in kubelet 1.34's csi_mounter), as long as the CSIDriver asks for it. Six of these keys are read; another means
//! nothing and is passed over, or no pod would start under a kubelet that knows one more. Pod information is checked against the
//! place that kubelet made for the volume. Tokens cannot be: where the CSIDriver asks for none, a token that the pod itself wrote there is taken,
//! and it is the authority that judges whose it is. Tokens are taken out and wiped where they came from.

use std::collections::HashMap;

use ensign_pki::{KeyType, SpiffeId, TrustDomain};
use ensign_proto::csi::v1::{NodePublishVolumeRequest, volume_capability::AccessType};
use zeroize::Zeroize as _;

use super::refusal::{Refusal, quoted};
use super::target::Target;
use super::token::Brought;
use super::{Config, DRIVER};
use crate::csr_client::SignerName;

/// A pod as kubelet describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service_account: String,
}

/// A volume and all that is to be known of it but its place. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Volume {
    /// Kubelet's handle.
    pub(super) id: String,
    pub(super) pod: Pod,
    pub(super) spiffe_id: SpiffeId,
    /// The signer, if the volume names one.
    pub(super) signer: Option<SignerName>,
    pub(super) key_type: KeyType,
    pub(super) socket_name: String,
}

/// One good request.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) volume: Volume,
    pub(super) token: Brought,
}

/// Takes the tokens of our audience out of a request, in either form, and wipes what held them.
pub(super) fn token(request: &mut NodePublishVolumeRequest, audience: &str) -> Result<Option<Brought>, Refusal> {
    // `serviceAccountTokenInSecrets` (Kubernetes 1.35) moves them from one map to the other under the same key. What is in the
    // first then comes from the pod: nothing writes over it.
    let mut in_secrets = request.secrets.remove(TOKENS);
    let mut in_context = request.volume_context.remove(TOKENS);
    for secret in request.secrets.values_mut() {
        secret.zeroize();
    }
    let found = match in_secrets.as_ref().or(in_context.as_ref()) {
        Some(json) => Brought::read(json, audience),
        None => Ok(None),
    };
    in_secrets.zeroize();
    in_context.zeroize();
    found
}

impl Publish {
    /// Reads a request for this place.
    pub(super) fn read(
        mut request: NodePublishVolumeRequest,
        target: &Target,
        config: &Config,
    ) -> Result<Self, Refusal> {
        let token = token(&mut request, &config.audience);
        let context = &request.volume_context;
        match request.volume_capability.and_then(|capability| capability.access_type) {
            Some(AccessType::Block(_)) => return Err(Refusal::Block),
            Some(AccessType::Mount(_)) => {}
            None => {
                let field = "volume_capability with an access type";
                return Err(Refusal::Missing { field });
            }
        }
        if request.volume_id.is_empty() {
            return Err(Refusal::Missing { field: "volume_id" });
        }
        let pod = Pod {
            namespace: from_kubelet(context, POD_NAMESPACE)?,
            name: from_kubelet(context, POD_NAME)?,
            service_account: from_kubelet(context, SERVICE_ACCOUNT)?,
        };
        let uid = from_kubelet(context, POD_UID)?;
        if uid != target.pod_uid {
            return Err(Refusal::Pod {
                what: "uid",
                seen: quoted(&uid),
                expected: format!("{}, to which the target path belongs", target.pod_uid),
            });
        }
        if from_kubelet(context, EPHEMERAL)? != "true" {
            return Err(Refusal::NotEphemeral);
        }
        if !request.readonly {
            return Err(Refusal::NotReadOnly);
        }
        let own = context.keys().filter(|key| !key.starts_with(KUBELETS));
        if let Some(unknown) = own.filter(|key| !OURS.contains(&key.as_str())).min() {
            return Err(Refusal::UnknownAttribute { name: quoted(unknown) });
        }
        let volume = Volume::new(
            request.volume_id,
            pod,
            context.get(SIGNER).map(String::as_str),
            key_type(context.get(KEY_TYPE).map(String::as_str), config)?,
            context.get(SOCKET_NAME).map_or(DEFAULT_SOCKET_NAME, String::as_str),
            &config.trust_domain,
        )?;
        let token = token?.ok_or_else(|| Refusal::no_token(&config.audience))?;
        Ok(Self { volume, token })
    }
}

impl Volume {
    /// Checks every part; none of them is trusted, wherever it comes from.
    pub(super) fn new(
        id: String,
        pod: Pod,
        signer: Option<&str>,
        key_type: KeyType,
        socket_name: &str,
        trust_domain: &TrustDomain,
    ) -> Result<Self, Refusal> {
        let spiffe_id = SpiffeId::new(trust_domain, &pod.namespace, &pod.service_account);
        let spiffe_id = spiffe_id.map_err(|error| Refusal::Pod {
            what: "identity",
            seen: quoted(&format!("{}/{}", pod.namespace, pod.service_account)),
            expected: error.to_string(),
        })?;
        let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        if !(1..=253).contains(&pod.name.len()) || !pod.name.bytes().all(label) {
            return Err(Refusal::Pod {
                what: "name",
                seen: quoted(&pod.name),
                expected: "lower-case letters, digits, `-` or `.`".to_owned(),
            });
        }
        let signer = signer.filter(|signer| !signer.is_empty()).map(|signer| {
            signer.parse::<SignerName>().map_err(|_| Refusal::Attribute {
                name: SIGNER,
                seen: quoted(signer),
                expected: "the name of a signer: lower-case letters, digits and `-`, with `.` between parts".to_owned(),
            })
        });
        Ok(Self {
            id,
            pod,
            spiffe_id,
            signer: signer.transpose()?,
            key_type,
            socket_name: checked_socket_name(socket_name)?,
        })
    }
}

fn from_kubelet(context: &HashMap<String, String>, key: &'static str) -> Result<String, Refusal> {
    match context.get(key) {
        Some(value) if !value.is_empty() => Ok(value.clone()),
        Some(_) | None => Err(Refusal::Driver {
            missing: key,
            driver: DRIVER,
            setting: "podInfoOnMount: true".to_owned(),
        }),
    }
}

/// The default, or one of the operator's list.
fn key_type(wish: Option<&str>, config: &Config) -> Result<KeyType, Refusal> {
    let Some(kind) = wish.filter(|kind| !kind.is_empty()) else {
        return Ok(config.key_type);
    };
    let known = config.key_types.iter().chain([&config.key_type]);
    let names = || {
        known
            .clone()
            .map(|kind| kind.as_str())
            .collect::<std::collections::BTreeSet<_>>()
    };
    known
        .clone()
        .copied()
        .find(|known| known.as_str() == kind)
        .ok_or_else(|| Refusal::Attribute {
            name: KEY_TYPE,
            seen: quoted(kind),
            expected: format!(
                "one of {} (the operator's list, --csi-key-types)",
                names().into_iter().collect::<Vec<_>>().join(", ")
            ),
        })
}

fn checked_socket_name(name: &str) -> Result<String, Refusal> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let good = (1..=64).contains(&name.len()) && name.bytes().all(letter) && !name.starts_with('.');
    good.then(|| name.to_owned()).ok_or_else(|| Refusal::Attribute {
        name: SOCKET_NAME,
        seen: quoted(name),
        expected: "1 to 64 letters, digits, `.`, `_` or `-`, the first of them no `.`".to_owned(),
    })
}

const SIGNER: &str = "signer";
const KEY_TYPE: &str = "keyType";
const SOCKET_NAME: &str = "socketName";
const OURS: [&str; 3] = [SIGNER, KEY_TYPE, SOCKET_NAME];
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const KUBELETS: &str = "csi.storage.k8s.io/";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
/// Not `socket`: pilot-agent falls back to Istio's own CA when a file of that name does not answer.
pub(super) const DEFAULT_SOCKET_NAME: &str = "ensign.sock";

#[cfg(test)]
pub(super) mod tests;
