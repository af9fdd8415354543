//! Istio's remote secret: a Secret whose keys are names of clusters and whose values are kubeconfigs.
//!
//! Its content is wiped when it is let go, and never shown. Reading one cannot fail: a value that is no base64 reads as
//! such, since kube logs the whole answer when a list cannot be read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// `v1` Secret, by what counts here.
#[derive(Clone, Deserialize)]
pub(super) struct RemoteSecret {
    #[serde(deserialize_with = "crate::authn::live::few")]
    metadata: ObjectMeta,
    #[serde(default, deserialize_with = "content")]
    pub(super) data: Data,
}

/// The values by key; `None` is one that is no base64.
type Data = BTreeMap<String, Option<Zeroizing<Vec<u8>>>>;

fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Data, D::Error> {
    let encoded = Option::<BTreeMap<String, String>>::deserialize(deserializer)?.unwrap_or_default();
    let decoded = |text: String| {
        let text = Zeroizing::new(text);
        STANDARD.decode(text.as_bytes()).ok().map(Zeroizing::new)
    };
    Ok(encoded.into_iter().map(|(name, text)| (name, decoded(text))).collect())
}

impl fmt::Debug for RemoteSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSecret")
            .field("namespace", &self.metadata.namespace)
            .field("name", &self.metadata.name)
            .finish_non_exhaustive()
    }
}

impl Resource for RemoteSecret {
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
