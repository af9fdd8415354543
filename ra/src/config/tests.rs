//! Settings, from the command line to checked values, and the page that documents them. The environment of the test run
//! is not touched.

use clap::CommandFactory as _;
use tonic::Code;

use super::*;

const LEAST: [&str; 9] = [
    "ensign-ra",
    "--policy-file=/p",
    "--jwks-file=/j",
    "--token-issuer=https://kubernetes.default.svc",
    "--serving-ca-dir=/s",
    "--grpc-addr=127.0.0.1:0",
    "--token-audiences=istio-ca, other",
    "--cluster-id=Kubernetes",
    "--max-queued=0",
];

fn read(more: &[&str]) -> Result<Config, ConfigError> {
    match Command::read(LEAST.iter().chain(more))? {
        Command::Run(config) => Ok(*config),
        Command::Print(text) => panic!("{text}"),
    }
}

#[test]
fn the_least_that_runs() {
    let config = read(&[]).unwrap();
    assert_eq!(config.authn.tokens.audiences, ["istio-ca", "other"]);
    assert_eq!(config.listen.readyz, "0.0.0.0:6060".parse().unwrap());
    assert_eq!(config.limits.message_bytes, 64 * 1024);
    assert!(matches!(config.serving, ServingSource::OwnCa { names, .. } if names.len() == 3));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let line = [
        "x",
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
fn the_serving_certificate_has_one_source() {
    for (more, name) in [
        (&["--serving-cert-file=/c"][..], "--serving-ca-dir"),
        (
            &["--serving-cert-file=/c", "--serving-key-file=/k"][..],
            "--serving-ca-dir",
        ),
    ] {
        let error = read(more).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
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

const PAGE: &str = include_str!("../../../docs/ra-configuration.md");

/// The table of settings, as the flags say it.
fn settings_table() -> String {
    let row = |argument: &clap::Arg| {
        let flag = format!("`--{}`", argument.get_long()?);
        let code = |text: std::borrow::Cow<'_, str>| format!("`{text}`");
        let variable = argument
            .get_env()
            .map_or(String::new(), |name| code(name.to_string_lossy()));
        let default = match argument.get_default_values().first() {
            Some(value) if argument.get_action().takes_values() => code(value.to_string_lossy()),
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
