//! Istio's ProxyConfig objects: the signer that a namespace, or the mesh, has as its default.
//!
//! Chooses as istiod does: of the objects of a namespace without a workload selector the oldest counts alone (of two of
//! one second, the one whose name sorts first), whatever the others say; the root namespace's is for the whole mesh.
//! See `mergedNamespaceConfig` and `sortConfigByCreationTime` in istio's `pilot/pkg/model/{proxy_config,config}.go`, and
//! <https://istio.io/latest/docs/reference/config/networking/proxy-config/>.
//!
//! An object with a selector is for single workloads. A token names an account, not labels, so the RA cannot tell whom
//! it is for: what it sets arrives as that workload's own wish (`CertSigner`), which needs the policy's permission.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kube::core::DynamicObject;
use serde_json::Value;

use super::CERT_SIGNER;
use super::notice::{Notice, NoticeKind};

/// One object, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Option<Time>,
    /// Whether it is for single workloads.
    pub selector: bool,
    /// `ISTIO_META_CERT_SIGNER`; present and empty means: none.
    pub cert_signer: Option<String>,
}

/// The choices of all objects, by namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyConfigs {
    chosen: BTreeMap<String, Choice>,
    notices: Vec<Notice>,
}

/// What the object that counts in a namespace says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    /// The object's name.
    pub(super) object: String,
    /// The signer; empty means: none.
    pub(super) signer: String,
}

// === impl ProxyConfig ===

impl ProxyConfig {
    /// Reads an object. What has not the form of Istio's CRD says nothing.
    pub fn of(object: &DynamicObject) -> Self {
        let spec = object.data.get("spec");
        let field = |name| spec.and_then(|spec| spec.get(name)).filter(|value| !value.is_null());
        let signer = field("environmentVariables").and_then(|variables| variables.get(CERT_SIGNER));
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            created: object.creation_timestamp(),
            selector: field("selector").is_some(),
            cert_signer: signer.and_then(Value::as_str).map(str::to_owned),
        }
    }
}

// === impl ProxyConfigs ===

impl ProxyConfigs {
    /// What a set of objects says, in whatever order it comes.
    pub fn new(mut objects: Vec<ProxyConfig>) -> Self {
        objects.sort_by(|a, b| (&a.created, &a.name, &a.namespace).cmp(&(&b.created, &b.name, &b.namespace)));
        let mut oldest = BTreeMap::<String, ProxyConfig>::new();
        let mut notices = Vec::new();
        for object in objects {
            let place = format!("ProxyConfig {}/{}", object.namespace, object.name);
            if object.selector {
                if object.cert_signer.is_some() {
                    let text = format!(
                        "{place} sets {CERT_SIGNER} for single workloads: no default here, and what they ask for needs the policy's permission"
                    );
                    notices.push(Notice {
                        kind: NoticeKind::WorkloadProxyConfig,
                        text,
                    });
                }
                continue;
            }
            match oldest.get(&object.namespace) {
                Some(counts) => notices.push(Notice {
                    kind: NoticeKind::SecondProxyConfig,
                    text: format!(
                        "{place} does not count, here as in istiod: {} is older and has no selector either; remove one of them",
                        counts.name
                    ),
                }),
                None => _ = oldest.insert(object.namespace.clone(), object),
            }
        }
        let chosen = |(namespace, object): (String, ProxyConfig)| {
            let choice = Choice {
                object: object.name,
                signer: object.cert_signer?,
            };
            Some((namespace, choice))
        };
        Self {
            chosen: oldest.into_iter().filter_map(chosen).collect(),
            notices,
        }
    }

    /// What counts in a namespace, if its object says anything of signers.
    pub(super) fn choice(&self, namespace: &str) -> Option<&Choice> {
        self.chosen.get(namespace)
    }

    /// What does not count.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use test_case::test_case;

    use super::*;

    fn object(namespace: &str, name: &str, created: i64, selector: bool, signer: Option<&str>) -> ProxyConfig {
        ProxyConfig {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            created: serde_json::from_value(json!(format!("2026-01-01T00:00:{created:02}Z"))).unwrap(),
            selector,
            cert_signer: signer.map(str::to_owned),
        }
    }

    fn choice(objects: &[ProxyConfig], namespace: &str) -> Option<(String, String)> {
        let all = ProxyConfigs::new(objects.to_vec());
        let choice = all.choice(namespace)?;
        Some((choice.object.clone(), choice.signer.clone()))
    }

    #[test_case(json!({"environmentVariables": {"ISTIO_META_CERT_SIGNER": "foo"}}), (false, Some("foo")); "the seed's")]
    #[test_case(json!({"environmentVariables": {"ISTIO_META_CERT_SIGNER": ""}}), (false, Some("")); "an empty one")]
    #[test_case(json!({"environmentVariables": {"OTHER": "x"}}), (false, None); "another variable")]
    #[test_case(json!({"environmentVariables": {"ISTIO_META_CERT_SIGNER": 1}}), (false, None); "a number, which the CRD refuses")]
    #[test_case(json!({"environmentVariables": null, "selector": null}), (false, None); "nothing said")]
    #[test_case(json!({"selector": {}, "environmentVariables": {"ISTIO_META_CERT_SIGNER": "foo"}}), (true, Some("foo")); "an empty selector is one, as in istiod")]
    #[test_case(json!({"selector": {"matchLabels": {"app": "a"}}}), (true, None); "a selector")]
    #[test_case(json!("text"), (false, None); "no spec at all")]
    fn reads_objects(spec: Value, (selector, signer): (bool, Option<&str>)) {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "networking.istio.io/v1beta1",
            "kind": "ProxyConfig",
            "metadata": {"name": "foopc", "namespace": "foo", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec,
        }))
        .unwrap();
        let read = ProxyConfig::of(&object);
        assert_eq!((&*read.namespace, &*read.name), ("foo", "foopc"));
        assert!(read.created.is_some());
        assert_eq!((read.selector, read.cert_signer.as_deref()), (selector, signer));
    }

    #[test]
    fn the_oldest_counts_alone_even_if_it_says_nothing() {
        let objects = [
            object("foo", "b", 2, false, Some("second")),
            object("foo", "c", 1, false, Some("first")),
            object("bar", "a", 1, false, None),
            object("bar", "b", 2, false, Some("later")),
        ];
        assert_eq!(choice(&objects, "foo"), Some(("c".to_owned(), "first".to_owned())));
        assert_eq!(choice(&objects, "bar"), None);
        let notices = ProxyConfigs::new(objects.to_vec()).notices;
        let kinds: Vec<_> = notices.iter().map(|notice| notice.kind).collect();
        assert_eq!(kinds, [NoticeKind::SecondProxyConfig; 2]);
        assert!(
            notices[0].text.contains("foo/b") || notices[1].text.contains("foo/b"),
            "{notices:?}"
        );
    }

    #[test]
    fn of_one_second_the_name_decides() {
        let objects = [
            object("foo", "z", 1, false, Some("z")),
            object("foo", "a", 1, false, Some("a")),
        ];
        assert_eq!(choice(&objects, "foo").unwrap().1, "a");
    }

    #[test]
    fn a_selector_is_no_default_and_hides_none() {
        let objects = [
            object("foo", "a", 1, true, Some("workload")),
            object("foo", "b", 2, false, Some("namespace")),
        ];
        assert_eq!(choice(&objects, "foo").unwrap().1, "namespace");
        let notices = ProxyConfigs::new(objects.to_vec()).notices;
        assert_eq!(notices.len(), 1);
        assert_eq!(notices[0].kind, NoticeKind::WorkloadProxyConfig);
    }

    #[test]
    fn an_empty_value_is_said_and_differs_from_nothing() {
        let said = choice(&[object("foo", "a", 1, false, Some(""))], "foo");
        assert_eq!(said, Some(("a".to_owned(), String::new())));
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_changes_nothing(
            drawn in prop::collection::btree_map(("[ab]", "[a-d]"), (0_i64..3, any::<bool>(), prop::option::of("[xy]?")), 0..8),
            seed in any::<u64>(),
        ) {
            let mut objects: Vec<_> = drawn
                .into_iter()
                .map(|((namespace, name), (created, selector, signer))| {
                    object(&namespace, &name, created, selector, signer.as_deref())
                })
                .collect();
            let sorted = ProxyConfigs::new(objects.clone());
            fastrand::Rng::with_seed(seed).shuffle(&mut objects);
            prop_assert_eq!(ProxyConfigs::new(objects), sorted);
        }
    }
}
