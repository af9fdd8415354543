//! From istio-csr's flags to a policy, and every mistake told by the flag's name.

use std::time::Duration;

use ensign_pki::KeyType;
use test_case::test_case;

use crate::config::{Command, Config, ConfigError};
use crate::policy::{Backend, CertManagerSpec, ChosenBy, ConfigMapRef, IssuerRef, Policy, RootsSpec, TtlChange, Wish};

/// As istio-csr's chart passes them, without those that name another issuer.
const CHART: [&str; 9] = [
    "--certificate-namespace=istio-system",
    "--issuer-enabled=true",
    "--issuer-name=istio-ca",
    "--issuer-kind=Issuer",
    "--issuer-group=cert-manager.io",
    "--preserve-certificate-requests=false",
    "--root-ca-file=",
    "--max-client-certificate-duration=1h",
    "--trust-domain=cluster.local",
];

fn read(flags: &[&str]) -> Result<Config, ConfigError> {
    let rest = [
        "ensign-ra",
        "--kubernetes=in-cluster",
        "--jwks-file=/j",
        "--token-issuer=https://kubernetes.default.svc",
        "--serving-ca-dir=/s",
    ];
    match Command::read(rest.iter().chain(flags))? {
        Command::Run(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

fn policy(flags: &[&str]) -> Policy {
    let text = read(flags).unwrap().policy_text.expect("a policy");
    Policy::parse(&text).unwrap()
}

fn backend(policy: &Policy) -> &CertManagerSpec {
    match policy.signers().map(|spec| &spec.backend).collect::<Vec<_>>()[..] {
        [Backend::CertManager(backend)] => backend,
        ref others => panic!("{others:?}"),
    }
}

fn istio_ca() -> IssuerRef {
    IssuerRef {
        name: "istio-ca".to_owned(),
        kind: "Issuer".to_owned(),
        group: "cert-manager.io".to_owned(),
    }
}

#[test_case(&CHART; "all of them")]
#[test_case(&["--issuer-name=istio-ca"]; "one of them")]
#[test_case(&["-u", "istio-ca"]; "a short one")]
#[test_case(&["-c=istio-system"]; "the namespace")]
#[test_case(&["--issuer-enabled"]; "a switch without value")]
fn the_defaults_are_those_of_istio_csr(flags: &[&str]) {
    let policy = policy(flags);
    let backend = backend(&policy);
    assert_eq!(policy.trust_domain().as_str(), "cluster.local");
    assert_eq!(backend.namespace, "istio-system");
    assert_eq!(backend.issuer, Some(istio_ca()));
    assert_eq!(backend.runtime_issuer, None);
    assert_eq!(backend.roots, RootsSpec::Discover);
    assert!(backend.annotations.is_empty() && !backend.preserve);
}

#[test]
fn every_flag_counts() {
    let policy = policy(&[
        "-c=certs",
        "-u=a.b",
        "-k=AWSPCAClusterIssuer",
        "-g=awspca.cert-manager.io",
        "-d",
        "-m=90m",
        "--trust-domain=example.org",
        "--root-ca-file=/roots/ca.pem",
        "--runtime-issuance-config-map-name=now",
        "--runtime-issuance-config-map-namespace=ensign",
        "--certificate-request-additional-annotations=example.org/a=1,b=x=y",
    ]);
    let backend = backend(&policy);
    assert_eq!(policy.trust_domain().as_str(), "example.org");
    assert_eq!(backend.namespace, "certs");
    let issuer = IssuerRef {
        name: "a.b".to_owned(),
        kind: "AWSPCAClusterIssuer".to_owned(),
        group: "awspca.cert-manager.io".to_owned(),
    };
    assert_eq!(backend.issuer, Some(issuer));
    let runtime = ConfigMapRef {
        namespace: "ensign".to_owned(),
        name: "now".to_owned(),
    };
    assert_eq!(backend.runtime_issuer, Some(runtime));
    assert_eq!(backend.roots, RootsSpec::File("/roots/ca.pem".into()));
    assert!(backend.preserve);
    let annotations = backend.annotations.iter().map(|(key, value)| format!("{key}: {value}"));
    assert_eq!(annotations.collect::<Vec<_>>(), ["b: x=y", "example.org/a: 1"]);
}

#[test]
fn only_a_config_map_may_name_the_issuer() {
    let policy = policy(&[
        "--issuer-enabled=false",
        "--runtime-issuance-config-map-name=now",
        "--runtime-issuance-config-map-namespace=ensign",
    ]);
    assert_eq!(backend(&policy).issuer, None);
    assert!(backend(&policy).runtime_issuer.is_some());
}

#[test_case(86_400, 3600, TtlChange::Clamped; "what agents ask for")]
#[test_case(0, 3600, TtlChange::Defaulted; "nothing")]
#[test_case(100, 100, TtlChange::Unchanged; "less than other APIs take")]
fn everybody_gets_the_issuer_whatever_is_asked_for(asked: i64, granted: u64, change: TtlChange) {
    let policy = policy(&CHART);
    for signer in [None, Some("foo"), Some("istio-ca")] {
        let signer = signer.map(|name| name.parse().unwrap());
        let grant = policy.grant(Wish {
            namespace: "any",
            service_account: "body",
            signer: signer.as_ref(),
            key_type: KeyType::P256,
            ttl_seconds: asked,
        });
        let grant = grant.unwrap();
        assert_eq!(grant.signer.as_str(), "istio-ca");
        assert_eq!(grant.chosen_by, ChosenBy::Rule);
        assert_eq!((grant.ttl, grant.ttl_change), (Duration::from_secs(granted), change));
    }
}

#[test]
fn a_long_cap_leaves_what_agents_ask_for() {
    let policy = policy(&["-u=istio-ca", "-m=48h"]);
    let grant = |ttl_seconds| {
        let wish = Wish {
            namespace: "any",
            service_account: "body",
            signer: None,
            key_type: KeyType::P256,
            ttl_seconds,
        };
        policy.grant(wish).unwrap().ttl
    };
    assert_eq!(grant(0), Duration::from_hours(24));
    assert_eq!(grant(1 << 40), Duration::from_hours(48));
}

#[test]
fn the_policy_can_be_printed_and_used_as_a_file() {
    let rest = [
        "ensign-ra",
        "--kubernetes=in-cluster",
        "--jwks-file=/j",
        "--token-issuer=x",
    ];
    let line = rest
        .iter()
        .chain(&CHART)
        .chain(&["--serving-ca-dir=/s", "--print-policy"]);
    let Command::Print(text) = Command::read(line).unwrap() else {
        panic!("expected text")
    };
    assert_eq!(Policy::parse(&text).unwrap(), policy(&CHART));
}

#[test_case(&["--policy-file=/p", "--issuer-name=x"], "--issuer-name (ENSIGN_RA_ISSUER_NAME): is `x`, expected no --policy-file"; "two who sign")]
#[test_case(&["--policy-file=/p", "--root-ca-file=/r"], "--root-ca-file (ENSIGN_RA_ROOT_CA_FILE): is `/r`, expected no --policy-file"; "roots of whom")]
#[test_case(&["--external-ca=ISTIOD_RA_KUBERNETES_API", "-u=x"], "expected neither --external-ca"; "both replaced at once")]
#[test_case(&["--root-ca-file=/r", "--external-ca=ISTIOD_RA_KUBERNETES_API"], "expected neither --external-ca"; "roots of the mesh")]
#[test_case(&["-d"], "--policy-file"; "nobody signs")]
#[test_case(&["-d"], "--preserve-certificate-requests (ENSIGN_RA_PRESERVE_CERTIFICATE_REQUESTS): is `true`, expected --issuer-name"; "how without who")]
#[test_case(&["--policy-file=/p", "--print-policy"], "--print-policy"; "nothing to print")]
#[test_case(&["-u=Istio_CA"], "--issuer-name (ENSIGN_RA_ISSUER_NAME): is `Istio_CA`"; "a bad name")]
#[test_case(&["-k=cluster-issuer"], "--issuer-kind"; "a bad kind")]
#[test_case(&["-g=/"], "--issuer-group"; "a bad group")]
#[test_case(&["-c=Istio"], "--certificate-namespace"; "a bad namespace")]
#[test_case(&["-e=no"], "--issuer-enabled"; "a bad switch")]
#[test_case(&["-e=false"], "--runtime-issuance-config-map-name"; "no issuer at all")]
#[test_case(&["--runtime-issuance-config-map-name=x"], "--runtime-issuance-config-map-namespace"; "half a config map")]
#[test_case(&["-u=x", "-m=1"], "--max-client-certificate-duration"; "no unit")]
#[test_case(&["-u=x", "-m=0s"], "--max-client-certificate-duration"; "no time")]
#[test_case(&["-u=x", "--certificate-request-additional-annotations=a"], "--certificate-request-additional-annotations"; "no value")]
#[test_case(&["-u=x", "--certificate-request-additional-annotations=a b=c"], "certManager.annotations"; "no key of an annotation")]
#[test_case(&["-u=x", "--kubernetes=off"], "--kubernetes"; "no API server")]
fn mistakes_are_told_by_the_name_of_the_flag(flags: &[&str], expected: &str) {
    let line = flags.iter().filter(|flag| !flag.starts_with("--kubernetes"));
    let mut line: Vec<&str> = line.copied().collect();
    let off = flags.contains(&"--kubernetes=off");
    line.push(if off {
        "--kubernetes=off"
    } else {
        "--kubernetes=in-cluster"
    });
    let rest = ["ensign-ra", "--jwks-file=/j", "--token-issuer=x", "--serving-ca-dir=/s"];
    let error = Command::read(rest.iter().chain(&line)).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}
