//! The policy file that istio-csr's flags amount to.

use std::fmt;
use std::time::Duration;

use ensign_pki::{SignerName, TrustDomain};
use serde_json::Value;

use crate::policy::{API_VERSION, IssuerRef};

/// What the flags say, each of it valid.
#[derive(Debug, Clone, Copy)]
pub(super) struct PolicyText<'a> {
    pub(super) trust_domain: Option<&'a TrustDomain>,
    pub(super) namespace: &'a str,
    pub(super) issuer: Option<&'a IssuerRef>,
    /// Namespace and name.
    pub(super) runtime: Option<(&'a str, &'a str)>,
    pub(super) annotations: &'a [(&'a str, &'a str)],
    pub(super) preserve: bool,
    pub(super) root_ca_file: Option<&'a str>,
    /// As it is written, and what it means.
    pub(super) max: (&'a str, Duration),
}

// === impl PolicyText ===

impl PolicyText<'_> {
    /// By what name metrics and logs know the one signer: its issuer's, where that is such a name.
    fn name(&self) -> &str {
        let name = self.issuer.map(|issuer| issuer.name.as_str());
        name.filter(|name| name.parse::<SignerName>().is_ok()).unwrap_or(SIGNER)
    }
}

impl fmt::Display for PolicyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signer = text(self.name());
        let trust_domain = self.trust_domain.map_or(TRUST_DOMAIN.to_owned(), ToString::to_string);
        let max = self.max.0;
        let default = if self.max.1 < ASKED.1 { max } else { ASKED.0 };
        let min = if self.max.1 < MIN.1 { max } else { MIN.0 };
        writeln!(f, "# What istio-csr's flags amount to.")?;
        writeln!(f, "apiVersion: {API_VERSION}")?;
        writeln!(f, "trustDomain: {}", text(&trust_domain))?;
        writeln!(
            f,
            "# As istio-csr: no floor, and what is asked for is cut to --max-client-certificate-duration."
        )?;
        writeln!(f, "ttl: {{default: {default}, min: {min}, max: {max}}}")?;
        writeln!(f, "signers:")?;
        writeln!(f, "- name: {signer}")?;
        writeln!(f, "  certManager:")?;
        writeln!(f, "    namespace: {}", text(self.namespace))?;
        if let Some(IssuerRef { name, kind, group }) = self.issuer {
            let (name, kind, group) = (text(name), text(kind), text(group));
            writeln!(f, "    issuer: {{name: {name}, kind: {kind}, group: {group}}}")?;
        }
        if let Some((namespace, name)) = self.runtime {
            let (namespace, name) = (text(namespace), text(name));
            writeln!(f, "    runtimeIssuer: {{namespace: {namespace}, name: {name}}}")?;
        }
        if !self.annotations.is_empty() {
            writeln!(f, "    annotations:")?;
            for (key, value) in self.annotations {
                writeln!(f, "      {}: {}", text(key), text(value))?;
            }
        }
        if self.preserve {
            writeln!(f, "    preserve: true")?;
        }
        match self.root_ca_file {
            Some(path) => writeln!(f, "  roots: {}", text(path))?,
            None => writeln!(f, "  roots: {{discover: true}}")?,
        }
        writeln!(f, "rules:")?;
        writeln!(f, "- namespace: \"*\"")?;
        writeln!(f, "  serviceAccounts: [\"*\"]")?;
        writeln!(f, "  signers: [{signer}]")?;
        writeln!(f, "  default: {signer}")?;
        writeln!(f, "  # As istio-csr, which has one issuer and reads no CertSigner.")?;
        writeln!(f, "  ignoreCertSigner: true")
    }
}

/// A JSON text is a YAML text, whatever it holds.
fn text(value: &str) -> String {
    Value::from(value).to_string()
}

/// The signer where only a ConfigMap names the issuer.
const SIGNER: &str = "issuer";
/// istio-csr's default.
const TRUST_DOMAIN: &str = "cluster.local";
/// What Istio's agents ask for.
const ASKED: (&str, Duration) = ("24h", Duration::from_hours(24));
const MIN: (&str, Duration) = ("1s", Duration::from_secs(1));
