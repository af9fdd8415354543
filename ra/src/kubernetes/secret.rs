//! Secrets that the RA keeps: read, written and watched by name, their values wiped.
//!
//! [`KeySecret`] is our own type for the kind `Secret` because the stock one prints its values in `Debug` and leaves them
//! in memory. It reads whatever the API server sends, since kube logs a body that it cannot read. Copies that are not
//! ours and that we cannot wipe: the buffers of TLS, HTTP and of kube's text of a response.
//!
//! [`NamedSecret`] touches one Secret, by PATCH alone, its creation included (server-side apply), so that RBAC can name
//! it for every verb: who may create Secrets of any name may mint tokens of every service account of the namespace.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde::de::{Deserializer, Visitor};
use serde::ser::{SerializeMap as _, Serializer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::client::Cluster;
use super::error::ApiError;
use super::home::FIELD_MANAGER;

/// A Secret whose values are wiped once nobody holds it. A clone shares them.
#[derive(Clone, Deserialize)]
pub struct KeySecret {
    metadata: ObjectMeta,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    data: Option<BTreeMap<String, Value>>,
}

/// One Secret of a known name.
#[derive(Clone)]
pub struct NamedSecret {
    api: Api<KeySecret>,
    namespace: String,
    name: String,
}

/// What a Secret is to hold, by key.
pub type Values<'a> = [(&'a str, &'a [u8])];

#[derive(Clone)]
struct Value(Arc<Zeroizing<Vec<u8>>>);

// === impl KeySecret ===

impl KeySecret {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.data.as_ref()?.get(key).map(|value| value.0.as_slice())
    }

    /// The value of a key as text.
    pub fn text(&self, key: &str) -> Option<Result<&str, std::str::Utf8Error>> {
        self.get(key).map(std::str::from_utf8)
    }

    /// Its keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.data.iter().flatten().map(|(key, _)| key.as_str())
    }

    /// Its type, such as `kubernetes.io/tls`.
    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("Opaque")
    }

    /// Whether an RA made it.
    pub fn is_ours(&self) -> bool {
        self.labels().get(MANAGED_BY).is_some_and(|by| by == FIELD_MANAGER)
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySecret")
            .field("name", &self.metadata.name)
            .field("keys", &self.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Resource for KeySecret {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Secret".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "secrets".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

// === impl NamedSecret ===

impl NamedSecret {
    /// The Secret of that name, whether it is there or not.
    pub fn new(cluster: &Cluster, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(cluster.client(), namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// For a watch.
    pub fn api(&self) -> Api<KeySecret> {
        self.api.clone()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes it, as ours and of that kind, if none was seen; else replaces values of what was seen, and leaves other keys
    /// alone. [`ApiError::Conflict`] if somebody wrote since. Whose the seen one is is for the caller to ask
    /// ([`KeySecret::is_ours`]).
    ///
    /// Of several who make it at once exactly one succeeds: `creator` ([`Home::creator`](super::Home::creator)) must be
    /// nobody else's, since values of the same creator are replaced.
    pub async fn put(
        &self,
        seen: Option<&KeySecret>,
        creator: &str,
        kind: &str,
        values: &Values<'_>,
    ) -> Result<KeySecret, ApiError> {
        match seen {
            None => self.create(creator, kind, values).await,
            Some(seen) => {
                let version = seen.resource_version().unwrap_or_default();
                self.replace(&version, values).await
            }
        }
    }

    async fn create(&self, creator: &str, kind: &str, values: &Values<'_>) -> Result<KeySecret, ApiError> {
        let labels = BTreeMap::from([(MANAGED_BY, FIELD_MANAGER)]);
        let body = Body {
            api_version: Some("v1"),
            kind: Some("Secret"),
            metadata: Meta {
                name: Some(&self.name),
                resource_version: None,
                labels: Some(&labels),
            },
            type_: Some(kind),
            data: Encoded(values),
        };
        let params = PatchParams::apply(creator);
        Ok(self.api.patch(&self.name, &params, &Patch::Apply(body)).await?)
    }

    async fn replace(&self, version: &str, values: &Values<'_>) -> Result<KeySecret, ApiError> {
        let body = Body {
            api_version: None,
            kind: None,
            metadata: Meta {
                name: None,
                resource_version: Some(version),
                labels: None,
            },
            type_: None,
            data: Encoded(values),
        };
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        Ok(self.api.patch(&self.name, &params, &Patch::Merge(body)).await?)
    }
}

impl fmt::Display for NamedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for NamedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NamedSecret({self})")
    }
}

// === impl Value ===

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Base64;

        impl Visitor<'_> for Base64 {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64")
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                // Sized beforehand: a growing buffer would leave copies behind. An error would be logged with the body,
                // so what is no base64 is nothing.
                let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
                let length = STANDARD.decode_slice(text, &mut bytes).unwrap_or(0);
                bytes.truncate(length);
                Ok(Value(Arc::new(bytes)))
            }
        }

        deserializer.deserialize_str(Base64)
    }
}

/// Label of a Secret that an RA made.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The body of a patch. `Debug` is asked for by kube and shows no value.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    metadata: Meta<'a>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    type_: Option<&'a str>,
    data: Encoded<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a BTreeMap<&'a str, &'a str>>,
}

/// Values in base64, written straight into the request.
struct Encoded<'a>(&'a Values<'a>);

impl Serialize for Encoded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            map.serialize_entry(key, &AsBase64(value))?;
        }
        map.end()
    }
}

struct AsBase64<'a>(&'a [u8]);

impl Serialize for AsBase64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&base64::display::Base64Display::new(self.0, &STANDARD))
    }
}

impl fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("name", &self.metadata.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::kubernetes::testing::{self, Answer};

    fn read(json: &str) -> KeySecret {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn values_are_decoded_and_printed_nowhere() {
        let secret = read(
            r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"cacerts","resourceVersion":"7"},"type":"Opaque",
               "data":{"ca-key.pem":"c2VjcmV0","empty":""}}"#,
        );
        assert_eq!(secret.text("ca-key.pem").unwrap().unwrap(), "secret");
        assert_eq!(secret.get("empty"), Some(&b""[..]));
        assert_eq!(secret.get("absent"), None);
        let shown = format!("{secret:?} {secret:#?}");
        assert!(
            shown.contains("ca-key.pem") && !shown.contains("secret") && !shown.contains("c2VjcmV0"),
            "{shown}"
        );
    }

    #[test]
    fn nothing_that_an_api_server_may_send_is_an_error_with_its_body() {
        for data in [r"null", r#"{"k":"not base64!"}"#, r"{}"] {
            let secret = read(&format!(r#"{{"metadata":{{}},"data":{data}}}"#));
            assert_eq!(secret.get("k").unwrap_or_default(), b"");
        }
        assert_eq!(read(r#"{"metadata":{}}"#).kind(), "Opaque");
    }

    #[test]
    fn a_patch_says_what_is_to_be_and_shows_no_value() {
        let values: &Values<'_> = &[("tls.key", b"secret")];
        let body = Body {
            api_version: None,
            kind: None,
            metadata: Meta {
                name: None,
                resource_version: Some("7"),
                labels: None,
            },
            type_: None,
            data: Encoded(values),
        };
        let json = serde_json::to_string(&body).unwrap();
        assert_eq!(
            json,
            r#"{"metadata":{"resourceVersion":"7"},"data":{"tls.key":"c2VjcmV0"}}"#
        );
        assert!(!format!("{body:?}").contains("secret"));
    }

    #[tokio::test]
    async fn what_is_not_there_is_made_as_ours_and_what_is_there_replaced_as_it_was_seen() {
        let (cluster, asked) = testing::cluster(|_, _| {
            std::future::ready(Some(Answer::ok(
                r#"{"metadata":{"name":"pair","resourceVersion":"8"}}"#,
            )))
            .boxed()
        });
        let secret = NamedSecret::new(&cluster, "foo", "pair");
        let foreign = read(r#"{"metadata":{"resourceVersion":"7"}}"#);
        let ours = read(
            r#"{"metadata":{"resourceVersion":"","labels":{"app.kubernetes.io/managed-by":"ensign-ra"}},"type":"Opaque"}"#,
        );
        assert_eq!((foreign.is_ours(), ours.is_ours()), (false, true));
        for seen in [None, Some(&foreign), Some(&ours)] {
            let values: &Values<'_> = &[("tls.key", b"secret")];
            secret
                .put(seen, "ensign-ra-me", "kubernetes.io/tls", values)
                .await
                .unwrap();
        }
        let place = "PATCH /api/v1/namespaces/foo/secrets/pair?";
        let made = (
            format!("{place}&fieldManager=ensign-ra-me"),
            r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"pair","labels":{"app.kubernetes.io/managed-by":"ensign-ra"}},"type":"kubernetes.io/tls","data":{"tls.key":"c2VjcmV0"}}"#.to_owned(),
        );
        let replaced = |version: &str| {
            let body = format!(r#"{{"metadata":{{"resourceVersion":"{version}"}},"data":{{"tls.key":"c2VjcmV0"}}}}"#);
            (format!("{place}&fieldManager=ensign-ra"), body)
        };
        assert_eq!(*asked.lock(), [made, replaced("7"), replaced("")]);
    }
}
