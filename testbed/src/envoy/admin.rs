//! Questions to an Envoy's admin port: readiness, listeners, certificates in use, counters.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{http, serial};

/// The admin port of one Envoy.
#[derive(Debug, Clone)]
pub struct Admin {
    address: SocketAddr,
}

/// What Envoy has loaded, by `/certs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// Serials of the leaf (and what else is in its chain), first the leaf.
    pub chain: Vec<String>,
    /// URI SANs of the leaf.
    pub uris: Vec<String>,
    /// Serials of the trusted roots.
    pub roots: Vec<String>,
}

/// Counters and gauges by full name.
#[derive(Debug, Clone, Default)]
pub struct Stats(BTreeMap<String, u64>);

// === impl Admin ===

impl Admin {
    /// Of the Envoy whose admin port this is.
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An error until Envoy has all that it needs.
    pub async fn ready(&self) -> anyhow::Result<()> {
        http::get(self.address, "/ready").await.map(drop)
    }

    /// Bound listeners by name.
    pub async fn listeners(&self) -> anyhow::Result<BTreeMap<String, SocketAddr>> {
        let answer = self.json("/listeners?format=json").await?;
        let mut found = BTreeMap::new();
        for status in array(&answer["listener_statuses"]) {
            let socket = &status["local_address"]["socket_address"];
            let address = format!("{}:{}", text(&socket["address"]), socket["port_value"]);
            if socket["port_value"].as_u64().is_none_or(|port| port == 0) {
                bail!("{} is not bound yet", status["name"]);
            }
            found.insert(
                text(&status["name"]).to_owned(),
                address.parse().with_context(|| format!("{address} is no address"))?,
            );
        }
        Ok(found)
    }

    /// What is loaded now; empty while there is nothing.
    ///
    /// Every user of the same secret (listener, clusters) is listed by Envoy; they may differ for an instant, so all are
    /// returned.
    pub async fn certificates(&self) -> anyhow::Result<Vec<Certificates>> {
        let answer = self.json("/certs").await?;
        Ok(array(&answer["certificates"])
            .map(|entry| Certificates {
                chain: serials(&entry["cert_chain"]),
                uris: array(&entry["cert_chain"])
                    .flat_map(|certificate| array(&certificate["subject_alt_names"]))
                    .filter_map(|name| name["uri"].as_str().map(str::to_owned))
                    .collect(),
                roots: serials(&entry["ca_cert"]),
            })
            .collect())
    }

    /// Serials of the leaf certificates loaded now.
    pub async fn leaf_serials(&self) -> anyhow::Result<Vec<String>> {
        Ok(self
            .certificates()
            .await?
            .into_iter()
            .filter_map(|entry| entry.chain.into_iter().next())
            .collect())
    }

    /// All counters and gauges.
    pub async fn stats(&self) -> anyhow::Result<Stats> {
        let body = http::get(self.address, "/stats?type=Counters").await?
            + &http::get(self.address, "/stats?type=Gauges").await?;
        let pairs = body.lines().filter_map(|line| line.rsplit_once(": "));
        Ok(Stats(
            pairs
                .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
                .collect(),
        ))
    }

    async fn json(&self, path: &str) -> anyhow::Result<Value> {
        let body = http::get(self.address, path).await?;
        serde_json::from_str(&body).with_context(|| format!("{path} of {} is no JSON", self.address))
    }
}

// === impl Stats ===

impl Stats {
    /// The value of one name; 0 if Envoy does not know it (yet).
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// The sum over all names that end like this, for example `ssl.handshake` of all clusters and listeners.
    pub fn sum(&self, suffix: &str) -> u64 {
        self.0
            .iter()
            .filter(|(name, _)| name.ends_with(suffix))
            .map(|(_, value)| value)
            .sum()
    }

    /// Names and values that contain this, for error texts.
    pub fn matching(&self, part: &str) -> BTreeMap<&str, u64> {
        self.0
            .iter()
            .filter(|(name, _)| name.contains(part))
            .map(|(name, value)| (name.as_str(), *value))
            .collect()
    }
}

fn serials(certificates: &Value) -> Vec<String> {
    array(certificates)
        .map(|certificate| serial::normal(text(&certificate["serial_number"])))
        .collect()
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
