//! From what stands in the ConfigMap now to the mesh configuration that counts.
//!
//! What is good counts. What is absent or cannot be read is said once, with the fix, and leaves the last good one in
//! effect: to take something away an operator changes the ConfigMap, and deleting it stops no mesh.

use ensign_daemon::logging;
use thiserror::Error;

use super::config::{MeshConfig, MeshConfigError};
use super::metrics::MeshMetrics;
use super::notice::Notice;

/// What is kept of a ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// The key `mesh`.
    pub(super) mesh: Option<String>,
    /// Its other keys, to name them where that one is missing.
    pub(super) others: Vec<String>,
}

/// Why there is no mesh configuration to read.
#[derive(Debug, Error)]
enum Unread {
    #[error("there is no such ConfigMap; install Istio's control plane there, or name another with --mesh-config-map")]
    NoObject,
    #[error("it has no key {KEY:?}; its keys are: {0}")]
    NoKey(String),
    #[error(transparent)]
    Wrong(#[from] MeshConfigError),
}

/// Remembers what counts, and what was said.
#[derive(Debug)]
pub(super) struct Reader {
    /// `namespace/name`, for people.
    place: String,
    metrics: MeshMetrics,
    good: Option<MeshConfig>,
    failure: Option<String>,
    said: Vec<Notice>,
}

/// Where Istio keeps it.
pub(super) const KEY: &str = "mesh";

// === impl Reader ===

impl Reader {
    pub(super) fn new(place: String, metrics: MeshMetrics) -> Self {
        Self {
            place,
            metrics,
            good: None,
            failure: None,
            said: Vec::new(),
        }
    }

    /// What counts after this look; `None` until there was something good.
    pub(super) fn look(&mut self, found: Option<&Content>) -> Option<&MeshConfig> {
        match read(found) {
            Ok(config) => {
                self.good = Some(match &self.good {
                    Some(before) => config.after(before),
                    None => config,
                });
                if self.failure.take().is_some() {
                    tracing::info!(config_map = self.place, "mesh configuration readable again");
                }
                self.metrics.read();
            }
            Err(error) => {
                let reason = logging::chain(&error);
                if self.failure.as_ref() != Some(&reason) {
                    let in_effect = match self.good {
                        Some(_) => "the last good one",
                        None => "nothing yet",
                    };
                    tracing::warn!(
                        config_map = self.place,
                        reason,
                        in_effect,
                        "mesh configuration not read"
                    );
                    self.metrics.unread();
                    self.failure = Some(reason);
                }
            }
        }
        self.good.as_ref()
    }

    /// Says what does not count, each thing once for as long as it lasts.
    pub(super) fn say<'a>(&mut self, notices: impl Iterator<Item = &'a Notice>) {
        let notices: Vec<_> = notices.cloned().collect();
        for notice in notices.iter().filter(|notice| !self.said.contains(notice)) {
            let kind = notice.kind.as_str();
            if notice.kind.is_mistake() {
                tracing::warn!(
                    kind,
                    detail = notice.text,
                    "part of Istio's configuration does not count"
                );
            } else {
                tracing::info!(
                    kind,
                    detail = notice.text,
                    "part of Istio's configuration does not count"
                );
            }
        }
        self.metrics.notices(&notices);
        self.said = notices;
    }
}

fn read(found: Option<&Content>) -> Result<MeshConfig, Unread> {
    let content = found.ok_or(Unread::NoObject)?;
    let text = content.mesh.as_deref().ok_or_else(|| {
        let others = content.others.join(", ");
        Unread::NoKey(if others.is_empty() { "none".to_owned() } else { others })
    })?;
    Ok(MeshConfig::parse(text)?)
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn reader() -> (Reader, Registry) {
        let mut registry = Registry::default();
        let metrics = MeshMetrics::register(&mut registry);
        (Reader::new("istio-system/istio".to_owned(), metrics), registry)
    }

    fn shown(registry: &Registry) -> (i64, i64) {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        (value("mesh_config_read "), value("mesh_config_failures_total "))
    }

    fn content(text: &str) -> Content {
        Content {
            mesh: Some(text.to_owned()),
            ..Content::default()
        }
    }

    fn trust_domain(reader: &mut Reader, found: Option<&Content>) -> Option<String> {
        let config = reader.look(found)?;
        Some(config.trust_domain()?.to_string())
    }

    #[test]
    fn what_cannot_be_read_leaves_the_last_good_one_and_is_counted_once() {
        let (mut reader, registry) = reader();
        let (good, bad, better) = (
            content("trustDomain: a.example"),
            content("trustDomain: ["),
            content("trustDomain: b.example"),
        );
        assert_eq!(trust_domain(&mut reader, None), None);
        assert_eq!(shown(&registry), (0, 1));
        assert_eq!(trust_domain(&mut reader, Some(&bad)), None);
        assert_eq!(shown(&registry), (0, 2));
        assert_eq!(trust_domain(&mut reader, Some(&good)).unwrap(), "a.example");
        assert_eq!(shown(&registry), (1, 2));
        for found in [Some(&bad), Some(&bad), None, None, Some(&Content::default())] {
            assert_eq!(trust_domain(&mut reader, found).unwrap(), "a.example");
        }
        assert_eq!(shown(&registry), (0, 5));
        assert_eq!(trust_domain(&mut reader, Some(&better)).unwrap(), "b.example");
        assert_eq!(shown(&registry), (1, 5));
        assert_eq!(
            trust_domain(&mut reader, Some(&content("{}"))),
            None,
            "a good one that says less counts"
        );
    }

    #[test]
    fn an_entry_that_breaks_keeps_what_it_gave() {
        let (mut reader, _) = reader();
        let root = ensign_testkit::TestCa::new("root").root_pem().replace('\n', "\n    ");
        let entry = |pem: &str| {
            content(&format!(
                "caCertificates:\n- certSigners: [example.com/foo]\n  pem: |\n    {pem}\n"
            ))
        };
        let mut has_roots = |found: &Content| {
            let config = reader.look(Some(found)).unwrap();
            let (signer, trust_domain) = ("example.com/foo".parse().unwrap(), "cluster.local".parse().unwrap());
            config.roots(&signer, &trust_domain).unwrap().is_some()
        };
        assert!(!has_roots(&entry("oops")));
        assert!(has_roots(&entry(&root)));
        assert!(has_roots(&entry("oops")));
        assert!(!has_roots(&content("{}")), "what is removed is gone");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(read(None).unwrap_err().to_string().contains("--mesh-config-map"));
        let none = Content {
            mesh: None,
            others: vec!["meshNetworks".to_owned()],
        };
        let error = read(Some(&none)).unwrap_err().to_string();
        assert!(
            error.contains("no key \"mesh\"") && error.contains("meshNetworks"),
            "{error}"
        );
        assert!(read(Some(&content(""))).unwrap_err().to_string().contains("empty"));
    }

    #[test]
    fn notices_are_shown_by_kind_and_fall_when_they_are_gone() {
        let (mut reader, registry) = reader();
        let kinds = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            let lines = text.lines().filter(|line| line.contains("bad_signer_name"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let bad = content("caCertificates:\n- certSigners: [a, b]\n");
        let notices = reader.look(Some(&bad)).unwrap().notices().to_vec();
        reader.say(notices.iter());
        assert_eq!(kinds(&registry), ["mesh_config_notices{kind=\"bad_signer_name\"} 2"]);
        reader.say([].iter());
        assert_eq!(kinds(&registry), ["mesh_config_notices{kind=\"bad_signer_name\"} 0"]);
    }
}
