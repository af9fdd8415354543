//! Settings, from the command line to checked values, and the page that documents them. The environment of the test run
//! is not touched.

mod control_plane;
mod istio_csr_flags;
mod istiod_variables;

use clap::CommandFactory as _;
use ensign_daemon::logging::LogFormat;
use test_case::test_case;
use tonic::Code;

use super::*;
use crate::authn::Mode;
use crate::policy::{IstioSettings, SignerChoice};

const LEAST: [&str; 9] = [
    "ensign-ra",
    "--policy-file=/p",
    "--jwks-file=/j",
    "--token-issuer=https://kubernetes.default.svc",
    "--serving-ca-dir=/s",
    "--serving-address=127.0.0.1:0",
    "--token-audiences=istio-ca, other",
    "--cluster-id=Kubernetes",
    "--max-queued=0",
];

fn read(more: &[&str]) -> Result<Config, ConfigError> {
    match Command::read(LEAST.iter().chain(more))? {
        Command::Run(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_least_that_runs() {
    let config = read(&[]).unwrap();
    assert_eq!(config.authn.tokens.audiences, ["istio-ca", "other"]);
    assert_eq!(config.listen.readyz, "0.0.0.0:6060".parse().unwrap());
    assert_eq!(config.limits.message_bytes, 16 * 1024);
    assert!(matches!(config.serving, ServingSource::OwnCa { names, .. } if names.len() == 3));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let line = [
        "x",
        "--authn=jwks-file",
        "--grpc-addr=here",
        "--max-in-flight=0",
        "--clock-skew=10",
        "--log-format=xml",
    ];
    let error = Command::read(line).unwrap_err().to_string();
    for name in [
        "--policy-file (ENSIGN_RA_POLICY_FILE)",
        "--jwks-file",
        "--token-issuer",
        "--serving-ca-dir",
        "--grpc-addr",
        "--max-in-flight (",
        "--clock-skew",
        "--log-format",
    ] {
        assert!(error.contains(name), "{error} lacks {name}");
    }
}

#[test]
fn istio_csrs_ports_are_those_of_our_addresses() {
    let config = read(&["--readiness-probe-port=7060", "--metrics-port=0"]).unwrap();
    assert_eq!(config.listen.readyz, "0.0.0.0:7060".parse().unwrap());
    assert_eq!(config.listen.metrics, "0.0.0.0:0".parse().unwrap());
    assert_eq!(config.listen.readiness_path, None);
    let config = read(&["--readyz-addr=[::1]:7060", "--readiness-probe-port=7060"]).unwrap();
    assert_eq!(config.listen.readyz, "[::1]:7060".parse().unwrap());
    let config = read(&["--readiness-probe-path=/ready/now"]).unwrap();
    assert_eq!(config.listen.readiness_path.as_deref(), Some("/ready/now"));
    for (flags, name) in [
        (
            &["--readyz-addr=[::1]:7060", "--readiness-probe-port=6060"][..],
            "--readiness-probe-port",
        ),
        (&["--metrics-port=http"], "--metrics-port"),
        (&["--readiness-probe-path=ready"], "--readiness-probe-path"),
        (&["--readiness-probe-path=/{ready}"], "--readiness-probe-path"),
        (&["--readiness-probe-path=/healthz"], "--readiness-probe-path"),
    ] {
        let error = read(flags).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn istio_csrs_words_for_logs_are_understood() {
    for (number, level) in [
        ("1", "info"),
        ("4", "info,ensign_ra=debug,ensign_daemon=debug"),
        ("5", "debug"),
        ("warn", "warn"),
    ] {
        assert_eq!(read(&["-v", number]).unwrap().log.level.to_string(), level);
    }
    assert!(read(&["-v=6"]).unwrap_err().to_string().contains("--log-level"));
    assert_eq!(read(&["--log-format=JSON"]).unwrap().log.format, LogFormat::Json);
}

#[test]
fn the_serving_certificate_has_one_source() {
    for (more, name) in [
        (&["--serving-cert-file=/c"][..], "--serving-ca-dir"),
        (
            &["--serving-cert-file=/c", "--serving-key-file=/k"][..],
            "--serving-ca-dir",
        ),
        (&["--serving-ca-secret=cacerts"][..], "--serving-ca-secret"),
        (&["--serving-ca-file=/r"][..], "--serving-ca-file"),
    ] {
        let error = read(more).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

/// With an API server and no JWKS file.
fn in_cluster(more: &[&str]) -> Result<Config, ConfigError> {
    let least = [
        "ensign-ra",
        "--policy-file=/p",
        "--serving-ca-dir=/s",
        "--kubernetes=in-cluster",
    ];
    match Command::read(least.iter().chain(more))? {
        Command::Run(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_way_to_judge_tokens_follows_from_what_is_there() {
    assert!(matches!(read(&[]).unwrap().authn.mode, Mode::JwksFile { .. }));
    assert_eq!(in_cluster(&[]).unwrap().authn.mode, Mode::TokenReview);
    let informer = in_cluster(&["--authn=informer", "--token-issuer=i"]).unwrap();
    assert_eq!(
        informer.authn.mode,
        Mode::Informer {
            issuer: Some("i".to_owned())
        }
    );
    let whole = in_cluster(&[
        "--remote-clusters",
        "--enable-client-cert-authenticator=true",
        "--cluster-aliases= a=Kubernetes , b=remote",
        "--ca-trusted-node-accounts=istio-system/ztunnel",
    ]);
    let authn = whole.unwrap().authn;
    assert!(authn.remote_clusters && authn.client_certificates);
    assert_eq!(
        authn.cluster_aliases.into_iter().collect::<Vec<_>>(),
        [
            ("a".to_owned(), "Kubernetes".to_owned()),
            ("b".to_owned(), "remote".to_owned())
        ]
    );
    assert!(authn.trusted_node_accounts.contains("istio-system", "ztunnel"));
}

#[test_case("--authn=oidc", "--authn"; "an unknown mode")]
#[test_case("--jwks-file=/j --authn=informer", "--jwks-file"; "keys for a mode that has others")]
#[test_case("--token-issuer=i", "--token-issuer"; "an issuer for a review")]
#[test_case("--authn=jwks-file", "--token-issuer"; "a file without an issuer")]
#[test_case("--cluster-aliases=a", "--cluster-aliases"; "an alias of nothing")]
#[test_case("--cluster-aliases=a=b,a=c", "--cluster-aliases"; "an alias of two")]
#[test_case("--cluster-aliases=Kubernetes=b", "--cluster-aliases"; "an alias that is our own name")]
#[test_case("--ca-trusted-node-accounts=ztunnel", "--ca-trusted-node-accounts (CA_TRUSTED_NODE_ACCOUNTS)"; "an account without a namespace")]
#[test_case("--remote-clusters=perhaps", "--remote-clusters"; "no boolean")]
#[test_case("--token-cache-ttl=10", "--token-cache-ttl"; "a duration without a unit")]
#[test_case("--authn-timeout=0s", "--authn-timeout"; "no time at all")]
#[test_case("--jwks-file=/j --token-issuer=i --remote-clusters", "--remote-clusters"; "one file for many clusters")]
#[test_case("--kubernetes=off", "--authn"; "a review without a server")]
#[test_case("--kubernetes=off --authn=informer", "--authn"; "informers without a server")]
#[test_case("--kubernetes=off --jwks-file=/j --token-issuer=i --remote-clusters", "--remote-clusters"; "remote secrets without a server")]
#[test_case("--kubernetes=off --jwks-file=/j --token-issuer=i --ca-trusted-node-accounts=a/b", "--ca-trusted-node-accounts"; "pods without a server")]
fn settings_that_do_not_go_together(more: &str, name: &str) {
    let least = ["ensign-ra", "--policy-file=/p", "--serving-ca-dir=/s"];
    let error = Command::read(least.into_iter().chain(more.split(' ')))
        .unwrap_err()
        .to_string();
    assert!(error.contains(name), "{error}");
}

#[test]
fn a_ca_in_a_secret_is_a_source() {
    let line = LEAST
        .iter()
        .copied()
        .filter(|flag| !flag.starts_with("--serving"))
        .chain(["--serving-ca-secret=ensign-ra-serving-ca", "--serving-root-overlap=90s"]);
    let Command::Run(config) = Command::read(line).unwrap() else {
        panic!("expected settings")
    };
    let ServingSource::CaSecret { name, overlap, .. } = config.serving else {
        panic!("{:?}", config.serving)
    };
    assert_eq!(
        (name.as_str(), overlap),
        ("ensign-ra-serving-ca", Duration::from_secs(90))
    );
}

#[test]
fn print_config_shows_values_with_their_source() {
    let line = LEAST.iter().chain(&["--print-config"]);
    let Command::Print(text) = Command::read(line).unwrap() else {
        panic!("expected text")
    };
    assert!(text.contains("\"token-issuer\""), "{text}");
    assert!(text.contains("\"from\": \"default\""), "{text}");
}

/// Settings that follow Istio's configuration, where nothing else is said.
const ISTIO: [&str; 4] = [
    "ensign-ra",
    "--jwks-file=/j",
    "--token-issuer=https://kubernetes.default.svc",
    "--serving-ca-dir=/s",
];

fn read_istio(more: &[&str]) -> Result<Config, ConfigError> {
    let said = more.iter().any(|word| word.starts_with("--kubernetes"));
    let cluster: &[_] = if said { &[] } else { &["--kubernetes=in-cluster"] };
    match Command::read(ISTIO.iter().chain(cluster).chain(more))? {
        Command::Run(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

#[test]
fn istiods_settings_mean_the_same() {
    let config = read_istio(&[
        "--external-ca=ISTIOD_RA_KUBERNETES_API",
        "--cert-signer-domain=clusterissuers.cert-manager.io",
        "--k8s-signer=example.com/own",
        "--pilot-cert-provider=k8s.io/clusterissuers.cert-manager.io/istio-system",
        "--default-workload-cert-ttl=1h",
        "--max-workload-cert-ttl=2h",
        "--trust-domain=example.org",
    ])
    .unwrap();
    assert_eq!(config.policy_file, None);
    let istio = config.istio.unwrap();
    assert_eq!(istio.config_map, "istio");
    let expected = IstioSettings {
        signer_domain: Some("clusterissuers.cert-manager.io".parse().unwrap()),
        k8s_signer: Some("example.com/own".parse().unwrap()),
        choice: SignerChoice::Policy,
        default_ttl: Some(Duration::from_hours(1)),
        max_ttl: Some(Duration::from_hours(2)),
    };
    assert_eq!(istio.settings, expected);
    let IstiodSigner::Kubernetes(istiod) = config.istiod.unwrap().signer else {
        panic!("expected a Kubernetes signer")
    };
    assert_eq!(istiod.to_string(), "clusterissuers.cert-manager.io/istio-system");
    assert_eq!(config.trust_domain.unwrap().as_str(), "example.org");
}

#[test]
fn a_revision_has_a_config_map_of_its_own_and_may_be_followed_beside_a_file() {
    let config = read_istio(&["--mesh-config-map=istio-canary", "--policy-file=/p"]).unwrap();
    assert_eq!(config.istio.unwrap().config_map, "istio-canary");
    assert!(config.policy_file.is_some());
}

#[test_case(&[]; "nothing said")]
#[test_case(&["--external-ca=", "--cert-signer-domain=", "--k8s-signer=", "--pilot-cert-provider=", "--trust-domain="]; "empty ones")]
#[test_case(&["--pilot-cert-provider=custom"]; "a certificate from elsewhere")]
#[test_case(&["--pilot-cert-provider=none"]; "no certificate")]
fn without_istios_settings_a_file_is_all(more: &[&str]) {
    let config = read(more).unwrap();
    assert_eq!((config.istio, config.trust_domain, config.istiod), (None, None, None));
}

#[test_case(&[], "--policy-file (ENSIGN_RA_POLICY_FILE): is not set, expected a path; or EXTERNAL_CA"; "no source of a policy")]
#[test_case(&["--external-ca=ISTIOD_RA_ISTIO_API"], "--external-ca (EXTERNAL_CA): is `ISTIOD_RA_ISTIO_API`, expected ISTIOD_RA_KUBERNETES_API"; "another external CA")]
#[test_case(&["--external-ca=ISTIOD_RA_KUBERNETES_API", "--kubernetes=off"], "--external-ca (EXTERNAL_CA): is `ISTIOD_RA_KUBERNETES_API`, expected an API server"; "no API server")]
#[test_case(&["--mesh-config-map=Istio"], "--mesh-config-map (ENSIGN_RA_MESH_CONFIG_MAP): is `Istio`"; "a ConfigMap that is none")]
#[test_case(&["--mesh-config-map=istio", "--cert-signer-domain=com"], "--cert-signer-domain (CERT_SIGNER_DOMAIN): is `com`"; "a domain that is none")]
#[test_case(&["--mesh-config-map=istio", "--k8s-signer=foo"], "--k8s-signer (K8S_SIGNER): is `foo`"; "a signer without domain")]
#[test_case(&["--policy-file=/p", "--k8s-signer=example.com/a"], "--k8s-signer (K8S_SIGNER): is `example.com/a`, expected --external-ca"; "a signer of no mesh")]
#[test_case(&["--policy-file=/p", "--cert-signer-domain=example.com"], "--cert-signer-domain (CERT_SIGNER_DOMAIN): is"; "a domain of no mesh")]
#[test_case(&["--policy-file=/p", "--max-workload-cert-ttl=1h"], "--max-workload-cert-ttl (MAX_WORKLOAD_CERT_TTL): is"; "a cap of no mesh")]
#[test_case(&["--mesh-config-map=istio", "--max-workload-cert-ttl=5m"], "expected 10m at least"; "a cap below the API's floor")]
#[test_case(&["--mesh-config-map=istio", "--default-workload-cert-ttl=1"], "--default-workload-cert-ttl (DEFAULT_WORKLOAD_CERT_TTL): is `1`"; "a lifetime without unit")]
#[test_case(&["--mesh-config-map=istio", "--max-workload-cert-ttl=1h", "--default-workload-cert-ttl=2h"], "no more than MAX_WORKLOAD_CERT_TTL"; "a default above the cap")]
#[test_case(&["--mesh-config-map=istio", "--signer-choice=any"], "--signer-choice (ENSIGN_RA_SIGNER_CHOICE): is `any`"; "an unknown choice")]
#[test_case(&["--mesh-config-map=istio", "--policy-file=/p", "--signer-choice=any-mesh-signer"], "expected no --policy-file beside it"; "a choice against the file")]
#[test_case(&["--policy-file=/p", "--pilot-cert-provider=kubernetes"], "istiod refuses it as well"; "a provider that is gone")]
#[test_case(&["--policy-file=/p", "--pilot-cert-provider=k8s.io/foo"], "--pilot-cert-provider (PILOT_CERT_PROVIDER): is `k8s.io/foo`"; "a provider without domain")]
#[test_case(&["--policy-file=/p", "--pilot-cert-provider=vault"], "there is no such provider"; "an unknown provider")]
#[test_case(&["--policy-file=/p", "--kubernetes=off", "--pilot-cert-provider=k8s.io/example.com/a"], "the certificate is requested there"; "a provider without API server")]
#[test_case(&["--policy-file=/p", "--trust-domain=A b"], "--trust-domain (ENSIGN_RA_TRUST_DOMAIN): is `A b`"; "a trust domain that is none")]
fn what_istiods_settings_cannot_mean(more: &[&str], expected: &str) {
    let error = read_istio(more).unwrap_err().to_string();
    assert!(error.contains(expected), "{error} lacks {expected}");
}

#[test]
fn a_mistake_of_the_cluster_is_not_told_twice() {
    let error = read_istio(&["--mesh-config-map=istio", "--kubernetes=nowhere"])
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("1 mistake"), "{error}");
}

const PAGE: &str = include_str!("../../../../docs/ra-configuration.md");

/// The table of settings, as the flags say it.
fn settings_table() -> String {
    let row = |argument: &clap::Arg| {
        let code = |text: std::borrow::Cow<'_, str>| format!("`{text}`");
        let mut flag = format!("`--{}`", argument.get_long()?);
        for alias in argument.get_visible_aliases().into_iter().flatten() {
            flag.push_str(&format!(", `--{alias}`"));
        }
        if let Some(short) = argument.get_short() {
            flag.push_str(&format!(", `-{short}`"));
        }
        let variable = argument
            .get_env()
            .map_or(String::new(), |name| code(name.to_string_lossy()));
        let default = match argument.get_default_values().first() {
            Some(value) if argument.get_action().takes_values() && !value.is_empty() => code(value.to_string_lossy()),
            _ => String::new(),
        };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        Some(format!("| {flag} | {variable} | {default} | {help} |\n"))
    };
    let command = Args::command();
    let rows: String = command.get_arguments().filter_map(row).collect();
    format!("| flag | variable | default | meaning |\n|---|---|---|---|\n{rows}")
}

#[test]
fn the_documented_settings_are_those_in_effect() {
    assert!(
        PAGE.contains(&settings_table()),
        "docs/ra-configuration.md must hold this table:\n{}",
        settings_table()
    );
}

#[test]
fn the_documented_codes_have_their_texts() {
    for (name, code) in [
        ("RESOURCE_EXHAUSTED", Code::ResourceExhausted),
        ("UNAUTHENTICATED", Code::Unauthenticated),
        ("INVALID_ARGUMENT", Code::InvalidArgument),
        ("PERMISSION_DENIED", Code::PermissionDenied),
        ("UNAVAILABLE", Code::Unavailable),
        ("DEADLINE_EXCEEDED", Code::DeadlineExceeded),
        ("FAILED_PRECONDITION", Code::FailedPrecondition),
        ("INTERNAL", Code::Internal),
    ] {
        let row = format!("| {name} | {} | ", crate::refusal::text(code));
        assert!(
            PAGE.contains(&row),
            "docs/ra-configuration.md lacks a row that begins with {row:?}"
        );
    }
}
