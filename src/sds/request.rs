//! From the bytes of one request to the few facts that the stream machines need.
//!
//! Owns the decoding of `DiscoveryRequest` and `DeltaDiscoveryRequest` and the check of their type. The node
//! (61 kB) is read only on a stream's first message and only for two fields; nothing here keeps a
//! reference into the message, so its buffer is gone when this returns.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;
use ensign_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use ensign_proto::{SECRET_TYPE_URL, node};
use prost::Message as _;
use tonic::Status;

use super::names::{Name, PerName, Wanted};

/// Sent by Istio's agents as a first message on shared streams; carries nothing for SDS.
const HEALTH_TYPE_URL: &str = "type.googleapis.com/istio.v1.HealthInformation";

/// Longest piece of somebody else's text that is repeated in our log.
const LONGEST_QUOTE: usize = 300;
/// A refusal may be as large as a request; no more of it is looked at.
const LONGEST_SEARCHED: usize = 16 * 1024;

/// What a request's first message says about its sender. A claim, never an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Introduction {
    /// `node.id`, for logs.
    pub(crate) node_id: String,
    /// `node.metadata.CERT_SIGNER`: the workload's wish for a signer.
    pub(crate) signer: Option<String>,
}

/// Why the client refused what it was sent (`error_detail`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The client's text, shortened.
    pub(crate) reason: String,
}

/// A state-of-the-world request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Read only where the caller asked for it: on the first message.
    pub(crate) introduction: Option<Introduction>,
    /// True for `HealthInformation`, which is skipped.
    pub(crate) health: bool,
    pub(crate) names: Wanted,
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) refusal: Option<Refusal>,
}

/// An incremental request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeltaRequest {
    /// As in [`Request`].
    pub(crate) introduction: Option<Introduction>,
    /// As in [`Request`].
    pub(crate) health: bool,
    pub(crate) subscribe: Wanted,
    pub(crate) unsubscribe: Wanted,
    /// Versions that the client says it holds (`initial_resource_versions`).
    pub(crate) held: PerName<Option<String>>,
    pub(crate) nonce: String,
    pub(crate) refusal: Option<Refusal>,
}

impl Request {
    /// Reads a `DiscoveryRequest`. `first` says whether its node is of interest.
    pub(crate) fn decode(message: Bytes, first: bool, max_names: usize) -> Result<Self, Status> {
        let request = DiscoveryRequest::decode(message).map_err(|error| malformed(&error))?;
        let health = is_health(&request.type_url)?;
        bound_names(request.resource_names.len(), max_names)?;
        Ok(Self {
            introduction: introduction(&request.node, first && !health)?,
            health,
            names: request.resource_names.into_iter().collect(),
            version: request.version_info,
            nonce: request.response_nonce,
            refusal: request.error_detail.map(|status| Refusal {
                reason: quote(&status.message),
            }),
        })
    }
}

impl DeltaRequest {
    /// Reads a `DeltaDiscoveryRequest`. `first` says whether its node is of interest.
    pub(crate) fn decode(message: Bytes, first: bool, max_names: usize) -> Result<Self, Status> {
        let request = DeltaDiscoveryRequest::decode(message).map_err(|error| malformed(&error))?;
        let health = is_health(&request.type_url)?;
        let (subscribe, unsubscribe) = (request.resource_names_subscribe, request.resource_names_unsubscribe);
        bound_names(
            subscribe.len() + unsubscribe.len() + request.initial_resource_versions.len(),
            max_names,
        )?;
        Ok(Self {
            introduction: introduction(&request.node, first && !health)?,
            health,
            subscribe: subscribe.into_iter().collect(),
            unsubscribe: unsubscribe.into_iter().collect(),
            held: held(request.initial_resource_versions),
            nonce: request.response_nonce,
            refusal: request.error_detail.map(|status| Refusal {
                reason: quote(&status.message),
            }),
        })
    }
}

/// The start of somebody else's text, without control characters and without a key that it quotes, for a log line.
pub(crate) fn quote(text: &str) -> String {
    let text = text
        .get(..text.floor_char_boundary(LONGEST_SEARCHED))
        .unwrap_or_default();
    ensign_daemon::redact::secrets(text)
        .chars()
        .take(LONGEST_QUOTE)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// An empty type is accepted, as Istio does; another resource's type is the caller's mistake.
fn is_health(type_url: &str) -> Result<bool, Status> {
    match type_url {
        "" | SECRET_TYPE_URL => Ok(false),
        HEALTH_TYPE_URL => Ok(true),
        other => Err(Status::invalid_argument(format!(
            "this socket serves {SECRET_TYPE_URL} only, the request is for {:?}",
            quote(other)
        ))),
    }
}

/// No node is no wish: Envoy always sends one, and nothing else in it matters here. A node that cannot be read ends
/// the stream, because a signer that was meant but not understood must not become the default signer.
fn introduction(node: &Bytes, wanted: bool) -> Result<Option<Introduction>, Status> {
    if !wanted {
        return Ok(None);
    }
    let facts = node::read(node).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(Some(Introduction {
        node_id: facts.id,
        signer: facts.cert_signer,
    }))
}

fn held(mut versions: HashMap<String, String>) -> PerName<Option<String>> {
    let mut version = |name: Name| versions.remove(name.as_str()).filter(|version| !version.is_empty());
    PerName {
        bundle: version(Name::Bundle),
        certificate: version(Name::Certificate),
    }
}

fn bound_names(names: usize, limit: usize) -> Result<(), Status> {
    if names > limit {
        return Err(Status::resource_exhausted(format!(
            "the request has {names} resource names, the limit is {limit}"
        )));
    }
    Ok(())
}

fn malformed(error: &dyn std::fmt::Display) -> Status {
    Status::invalid_argument(Cow::from(format!(
        "the request is not a valid discovery request: {error}"
    )))
}

#[cfg(test)]
mod tests {
    use ensign_proto::google::rpc;

    use super::*;

    const LIMIT: usize = 100;

    fn encoded(request: &DiscoveryRequest) -> Bytes {
        request.encode_to_vec().into()
    }

    #[test]
    fn type_is_checked_and_may_be_empty() {
        let of_type = |type_url: &str| {
            let request = DiscoveryRequest {
                type_url: type_url.into(),
                ..Default::default()
            };
            Request::decode(encoded(&request), true, LIMIT)
        };
        assert!(!of_type("").unwrap().health);
        assert!(!of_type(SECRET_TYPE_URL).unwrap().health);
        assert!(of_type(HEALTH_TYPE_URL).unwrap().health);
        let error = of_type("type.googleapis.com/envoy.config.cluster.v3.Cluster").unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn garbage_and_too_many_names_are_refused() {
        let error = Request::decode(Bytes::from_static(&[0xff, 0xff]), true, LIMIT).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        let request = DiscoveryRequest {
            resource_names: vec!["x".into(); LIMIT + 1],
            ..Default::default()
        };
        let error = Request::decode(encoded(&request), true, LIMIT).unwrap_err();
        assert_eq!(error.code(), tonic::Code::ResourceExhausted);
    }

    #[test]
    fn node_is_read_on_the_first_message_only() {
        // A tag without its length: no valid node.
        let request = DiscoveryRequest {
            node: Bytes::from_static(&[0x0a]),
            ..Default::default()
        };
        assert!(Request::decode(encoded(&request), true, LIMIT).is_err());
        assert_eq!(
            Request::decode(encoded(&request), false, LIMIT).unwrap().introduction,
            None
        );
        let none = Request::decode(Bytes::new(), true, LIMIT).unwrap();
        assert_eq!(none.introduction, Some(Introduction::default()));
    }

    #[test]
    fn refusal_text_is_shortened_and_cleaned() {
        let status = rpc::Status {
            message: format!("a\nb{}", "x".repeat(10_000)),
            ..Default::default()
        };
        let request = DiscoveryRequest {
            error_detail: Some(status),
            ..Default::default()
        };
        let reason = Request::decode(encoded(&request), false, LIMIT)
            .unwrap()
            .refusal
            .unwrap()
            .reason;
        assert!(reason.starts_with("a bx") && reason.len() == LONGEST_QUOTE);
    }

    #[test]
    fn delta_versions_are_sorted_by_name() {
        let versions = [("default", "v1"), ("ROOTCA", ""), ("other", "v3")];
        let request = DeltaDiscoveryRequest {
            initial_resource_versions: versions.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            ..Default::default()
        };
        let held = DeltaRequest::decode(request.encode_to_vec().into(), true, LIMIT)
            .unwrap()
            .held;
        assert_eq!(
            held,
            PerName {
                bundle: None,
                certificate: Some("v1".into())
            }
        );
    }
}
