//! Which program this is, as a metric: a fleet in the middle of an upgrade shows two.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    version: &'static str,
    crypto_provider: &'static str,
}

/// Registers `build_info` with `registry` (which brings the program's prefix).
pub fn register(registry: &mut Registry, version: &'static str, crypto_provider: &'static str) {
    let info = Family::<Labels, Gauge>::default();
    let labels = Labels {
        version,
        crypto_provider,
    };
    info.get_or_create(&labels).set(1);
    registry.register(
        "build_info",
        "1, for the version of the program and its crypto provider",
        info,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_series_that_names_both() {
        let mut registry = Registry::default();
        register(registry.sub_registry_with_prefix("ensign_x"), "1.2.3", "ring");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let expected = "ensign_x_build_info{version=\"1.2.3\",crypto_provider=\"ring\"} 1";
        assert!(text.lines().any(|line| line == expected), "{text}");
    }
}
