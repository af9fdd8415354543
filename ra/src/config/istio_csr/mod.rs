//! istio-csr's flags for its one issuer, under istio-csr's names: where there is no policy file they amount to a policy.
//!
//! One issuer of cert-manager signs for everybody, whatever signer a workload asks for. The policy is written out as a policy
//! file would be (`--print-policy`): so there is one way from a text to a policy, and a file to go on with. What each flag
//! of istio-csr has become is in docs/migrate-from-istio-csr.md.

mod policy_text;
mod refused;

use std::sync::Arc;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use ensign_daemon::GoDuration;
use ensign_daemon::settings::Checker;
use ensign_pki::TrustDomain;
use ensign_pki::dns_name::is_subdomain;

pub use self::refused::RefusedFlag;

use self::policy_text::PolicyText;
use super::kubernetes::Noted;
use super::values::{duration, label};
use crate::policy::{IssuerRef, Policy};

#[derive(Debug, Clone, Args)]
pub(super) struct IstioCsrArgs {
    /// As in istio-csr: namespace of the CertificateRequests. This and the next six, without a policy file, make one signer for everybody
    #[arg(
        long,
        short = 'c',
        env = "ENSIGN_RA_CERTIFICATE_NAMESPACE",
        default_value = "istio-system",
        value_name = "NAME"
    )]
    certificate_namespace: String,
    /// As in istio-csr: whether the issuer of the next three signs; `false` where only a ConfigMap names one
    #[arg(
        long,
        short = 'e',
        env = "ENSIGN_RA_ISSUER_ENABLED",
        default_value = "true",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    issuer_enabled: String,
    /// As in istio-csr: name of the issuer
    #[arg(
        long,
        short = 'u',
        env = "ENSIGN_RA_ISSUER_NAME",
        default_value = "istio-ca",
        value_name = "NAME"
    )]
    issuer_name: String,
    /// As in istio-csr: its kind
    #[arg(
        long,
        short = 'k',
        env = "ENSIGN_RA_ISSUER_KIND",
        default_value = "Issuer",
        value_name = "KIND"
    )]
    issuer_kind: String,
    /// As in istio-csr: its API group
    #[arg(
        long,
        short = 'g',
        env = "ENSIGN_RA_ISSUER_GROUP",
        default_value = "cert-manager.io",
        value_name = "GROUP"
    )]
    issuer_group: String,
    /// As in istio-csr: a ConfigMap that names the issuer while it is there
    #[arg(
        long,
        env = "ENSIGN_RA_RUNTIME_ISSUANCE_CONFIG_MAP_NAME",
        default_value = "",
        value_name = "NAME"
    )]
    runtime_issuance_config_map_name: String,
    /// As in istio-csr: its namespace
    #[arg(
        long,
        env = "ENSIGN_RA_RUNTIME_ISSUANCE_CONFIG_MAP_NAMESPACE",
        default_value = "",
        value_name = "NAME"
    )]
    runtime_issuance_config_map_namespace: String,
    /// As in istio-csr: annotations for each CertificateRequest, KEY=VALUE, separated by commas
    #[arg(
        long,
        env = "ENSIGN_RA_CERTIFICATE_REQUEST_ADDITIONAL_ANNOTATIONS",
        value_name = "LIST",
        value_delimiter = ','
    )]
    certificate_request_additional_annotations: Vec<String>,
    /// As in istio-csr: keep CertificateRequests, for a person to look at
    #[arg(
        long,
        short = 'd',
        env = "ENSIGN_RA_PRESERVE_CERTIFICATE_REQUESTS",
        default_value = "false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    preserve_certificate_requests: String,
    /// As in istio-csr: roots of that issuer (PEM, watched); unset: what the issuer says of itself
    #[arg(long, env = "ENSIGN_RA_ROOT_CA_FILE", default_value = "", value_name = "PATH")]
    root_ca_file: String,
    /// As in istio-csr: longest lifetime; more is cut to it
    #[arg(
        long,
        short = 'm',
        env = "ENSIGN_RA_MAX_CLIENT_CERTIFICATE_DURATION",
        default_value = "1h",
        value_name = "DURATION"
    )]
    max_client_certificate_duration: String,
}

/// What there is beside these flags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beside<'a> {
    pub(super) policy_file: bool,
    pub(super) istio: bool,
    pub(super) kubernetes: bool,
    pub(super) trust_domain: Option<&'a TrustDomain>,
}

impl IstioCsrArgs {
    /// Whether somebody said who signs.
    pub(super) fn are_used(matches: &ArgMatches) -> bool {
        WHO.iter().any(|id| said(matches, id).is_some())
    }

    /// The policy that the flags amount to; `None`: it comes from elsewhere.
    pub(super) fn check(
        &self,
        c: &mut Checker<'_>,
        matches: &ArgMatches,
        beside: Beside<'_>,
    ) -> Result<Option<Arc<str>>, Noted> {
        if !Self::are_used(matches) || beside.policy_file || beside.istio {
            refuse_elsewhere(c, matches, beside);
            return Ok(None);
        }
        self.text(c, beside).ok_or(Noted).map(Some)
    }

    fn text(&self, c: &mut Checker<'_>, beside: Beside<'_>) -> Option<Arc<str>> {
        if !beside.kubernetes {
            let why = "cert-manager is reached through it";
            c.refuse("issuer_name", &self.issuer_name, "an API server (--kubernetes)", why);
        }
        let namespace = label(c, "certificate_namespace", &self.certificate_namespace);
        let enabled: Option<bool> = c.parse("issuer_enabled", &self.issuer_enabled, "true or false");
        let preserve = c.parse(
            "preserve_certificate_requests",
            &self.preserve_certificate_requests,
            "true or false",
        );
        let runtime = self.runtime(c);
        let issuer = self.issuer(c);
        if enabled == Some(false) && matches!(runtime, Ok(None)) {
            let why = "without an issuer nobody signs; enable it, or name the ConfigMap that names one";
            let expected = "--runtime-issuance-config-map-name beside it";
            c.refuse("issuer_enabled", &self.issuer_enabled, expected, why);
        }
        let annotations = self.annotations(c);
        let max = self.max(c);
        let text = PolicyText {
            trust_domain: beside.trust_domain,
            namespace: &namespace?,
            issuer: issuer.as_ref().filter(|_| enabled == Some(true)),
            runtime: runtime.ok()?,
            annotations: &annotations?,
            preserve: preserve?,
            root_ca_file: Some(self.root_ca_file.as_str()).filter(|path| !path.is_empty()),
            max: (&self.max_client_certificate_duration, max?),
        }
        .to_string();
        // Whatever else there is to check.
        let parsed = Policy::parse(&text).map(|_| text.into());
        issuer?;
        c.check("issuer_name", &self.issuer_name, "an issuer of cert-manager", parsed)
    }

    fn issuer(&self, c: &mut Checker<'_>) -> Option<IssuerRef> {
        let mut name = |id, seen: &str, expected, valid: bool| {
            if !valid {
                c.refuse(id, seen, expected, "Kubernetes knows no such thing");
            }
            valid.then(|| seen.to_owned())
        };
        let (kind, group) = (&self.issuer_kind, &self.issuer_group);
        let is_kind = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let issuer = name(
            "issuer_name",
            &self.issuer_name,
            "the name of an issuer",
            is_subdomain(&self.issuer_name),
        );
        let kind = name("issuer_kind", kind, "a kind such as Issuer or ClusterIssuer", is_kind);
        let group = name("issuer_group", group, "an API group", is_subdomain(group));
        Some(IssuerRef {
            name: issuer?,
            kind: kind?,
            group: group?,
        })
    }

    /// Namespace and name of the ConfigMap, if there is one.
    fn runtime(&self, c: &mut Checker<'_>) -> Result<Option<(&str, &str)>, Noted> {
        let (name, namespace) = (
            self.runtime_issuance_config_map_name.as_str(),
            self.runtime_issuance_config_map_namespace.as_str(),
        );
        match (name, namespace) {
            ("", "") => return Ok(None),
            (_, "") => c.missing(
                "runtime_issuance_config_map_namespace",
                "the namespace of that ConfigMap",
            ),
            ("", _) => c.missing("runtime_issuance_config_map_name", "the name of a ConfigMap there"),
            _ => {
                if !is_subdomain(name) {
                    let why = "Kubernetes knows no such thing";
                    c.refuse("runtime_issuance_config_map_name", name, "the name of a ConfigMap", why);
                    return Err(Noted);
                }
                label(c, "runtime_issuance_config_map_namespace", namespace).ok_or(Noted)?;
                return Ok(Some((namespace, name)));
            }
        }
        Err(Noted)
    }

    fn annotations(&self, c: &mut Checker<'_>) -> Option<Vec<(&str, &str)>> {
        let entries = self.certificate_request_additional_annotations.iter();
        let entries = entries.filter(|entry| !entry.is_empty());
        let read: Option<Vec<_>> = entries.map(|entry| entry.split_once('=')).collect();
        if read.is_none() {
            let why = "an entry has no `=`; a value cannot hold a comma";
            c.refuse(
                "certificate_request_additional_annotations",
                &self.certificate_request_additional_annotations.join(","),
                "KEY=VALUE entries, separated by commas",
                why,
            );
        }
        read
    }

    fn max(&self, c: &mut Checker<'_>) -> Option<Duration> {
        duration(
            c,
            "max_client_certificate_duration",
            &self.max_client_certificate_duration,
            GoDuration::positive,
        )
    }
}

/// What has no effect, and so is a misunderstanding.
fn refuse_elsewhere(c: &mut Checker<'_>, matches: &ArgMatches, beside: Beside<'_>) {
    let (expected, why) = if beside.policy_file {
        (
            "no --policy-file beside it",
            "the policy file says who signs, how and for how long: write it there, or leave the file out",
        )
    } else if beside.istio {
        (
            "neither --external-ca nor --mesh-config-map beside it",
            "the signers are those of Istio's mesh configuration: leave one of them out",
        )
    } else {
        (
            "--issuer-name beside it",
            "it says how an issuer is used, and none is named",
        )
    };
    for id in WHO.iter().chain(&HOW) {
        if let Some(seen) = said(matches, id) {
            c.refuse(id, seen, expected, why);
        }
    }
}

/// A value that somebody gave; an empty variable is none.
fn said<'a>(matches: &'a ArgMatches, id: &str) -> Option<&'a str> {
    let given = matches!(
        matches.value_source(id),
        Some(ValueSource::CommandLine | ValueSource::EnvVariable)
    );
    let value = matches.get_one::<String>(id).filter(|value| given && !value.is_empty());
    value.map(String::as_str)
}

/// Who signs.
const WHO: [&str; 7] = [
    "certificate_namespace",
    "issuer_enabled",
    "issuer_name",
    "issuer_kind",
    "issuer_group",
    "runtime_issuance_config_map_name",
    "runtime_issuance_config_map_namespace",
];
/// And how.
const HOW: [&str; 4] = [
    "certificate_request_additional_annotations",
    "preserve_certificate_requests",
    "root_ca_file",
    "max_client_certificate_duration",
];

#[cfg(test)]
mod tests;
