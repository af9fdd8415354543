//! Settings of what the RA does for the control plane: its own certificate from cert-manager, istiod's, roots, the leader.

use ensign_pki::KeyType;
use test_case::test_case;

use super::*;
use crate::istiod::Provider;
use crate::serving::IssuedConfig;

/// Without the serving CA that the others name.
fn read_without_serving(more: &[&str]) -> Result<Config, ConfigError> {
    let line = LEAST.iter().copied().filter(|flag| !flag.starts_with("--serving"));
    match Command::read(line.chain(more.iter().copied()))? {
        Command::Run(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

fn issued(more: &[&str]) -> IssuedConfig {
    let config = read_without_serving(&[&["--serving-from=cert-manager"][..], more].concat()).unwrap();
    match config.serving {
        ServingSource::Issued(issued) => issued,
        other => panic!("{other:?}"),
    }
}

fn istiod(more: &[&str]) -> IstiodSettings {
    read(&[&["--kubernetes=in-cluster"][..], more].concat())
        .unwrap()
        .istiod
        .unwrap()
}

#[test]
fn istio_csrs_words_for_the_serving_certificate() {
    let config = issued(&[]);
    assert_eq!(
        (config.key_type, config.ttl, config.secret.as_str(), config.signer),
        (KeyType::P256, Duration::from_hours(1), "ensign-ra-serving", None)
    );
    let config = issued(&[
        "--serving-signature-algorithm=ecdsa",
        "--serving-certificate-key-size=384",
        "--serving-certificate-duration=20m",
        "--serving-certificate-dns-names=cert-manager-istio-csr.cert-manager.svc",
        "--serving-signer=istio-ca",
    ]);
    assert_eq!(config.key_type, KeyType::P384);
    assert_eq!(config.names, ["cert-manager-istio-csr.cert-manager.svc"]);
    assert_eq!(config.signer.unwrap().as_str(), "istio-ca");
}

#[test_case(&["--serving-from=vault"], "--serving-from (ENSIGN_RA_SERVING_FROM): is `vault`, expected cert-manager"; "another place")]
#[test_case(&["--serving-from=cert-manager", "--serving-ca-dir=/s"], "either this or"; "two places")]
#[test_case(&["--serving-from=cert-manager", "--serving-certificate-key-size=2048"], "expected one of 256, 384 for ECDSA"; "istio-csr's default size with ECDSA")]
#[test_case(&["--serving-from=cert-manager", "--serving-signature-algorithm=Ed25519"], "expected ECDSA or RSA"; "another algorithm")]
#[test_case(&["--serving-from=cert-manager", "--serving-certificate-duration=0"], "--serving-certificate-duration"; "no lifetime")]
#[test_case(&["--serving-ca-dir=/s", "--serving-signer=foo"], "it goes with --serving-from"; "a signer of no use")]
fn a_mistake_in_the_serving_certificate_is_named(more: &[&str], expected: &str) {
    let error = read_without_serving(more).unwrap_err().to_string();
    assert!(error.contains(expected), "{error} lacks {expected}");
}

#[cfg(feature = "ring")]
#[test]
fn a_key_that_this_build_cannot_make_is_refused_at_the_start() {
    let error = read_without_serving(&["--serving-from=cert-manager", "--serving-signature-algorithm=RSA"]);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("--serving-signature-algorithm") && error.contains("aws-lc-rs"),
        "{error}"
    );
    let by_cert_manager = istiod(&["--istiod-cert-enabled", "--istiod-cert-key-algorithm=RSA"]);
    assert_eq!(
        by_cert_manager.config.key_type,
        KeyType::Rsa2048,
        "cert-manager makes it"
    );
}

#[test]
fn istio_csrs_words_for_istiods_certificate() {
    let IstiodSettings { config, signer } = istiod(&["--istiod-cert-enabled=true"]);
    let Provider::Certificate {
        name,
        renew_before,
        annotations,
    } = config.provider
    else {
        panic!("expected a Certificate")
    };
    assert_eq!(
        (name.as_str(), renew_before, annotations.len()),
        ("istiod-dynamic", Duration::from_mins(30), 0)
    );
    assert_eq!(
        (config.key_type, config.ttl),
        (KeyType::Rsa2048, Duration::from_hours(1))
    );
    assert_eq!(config.names.dns(), ["istiod.istio-system.svc"]);
    assert_eq!(signer, IstiodSigner::CertManager(None));
    let more = istiod(&[
        "--istiod-cert-enabled",
        "--istiod-cert-istio-revisions=default,canary",
        "--istiod-cert-additional-dns-names=istiod.example.com",
        "--istiod-cert-namespace=mesh",
        "--istiod-cert-key-algorithm=ECDSA",
        "--istiod-cert-key-size=384",
    ]);
    assert_eq!(
        more.config.names.dns(),
        ["istiod.mesh.svc", "istiod-canary.mesh.svc", "istiod.example.com"]
    );
    assert_eq!(more.config.key_type, KeyType::P384);
}

#[test]
fn a_kubernetes_signer_means_a_secret_with_a_key_of_ours() {
    let settings = istiod(&["--pilot-cert-provider=k8s.io/clusterissuers.cert-manager.io/istio-system"]);
    assert_eq!(
        (settings.config.provider, settings.config.key_type),
        (Provider::Secret, KeyType::P256)
    );
}

#[test_case(&["--istiod-cert-enabled", "--istiod-cert-renew-before=1h"], "less than --istiod-cert-duration"; "renewed all the time")]
#[test_case(&["--istiod-cert-enabled", "--istiod-cert-duration=10m", "--istiod-cert-renew-before=1m"], "1h at least"; "shorter than cert-manager takes")]
#[test_case(&["--istiod-cert-enabled", "--istiod-cert-additional-dns-names=*.example.com"], "--istiod-cert-additional-dns-names"; "a wildcard")]
#[test_case(&["--istiod-cert-enabled", "--istiod-cert-istio-revisions=A"], "--istiod-cert-istio-revisions"; "no revision")]
#[test_case(&["--istiod-cert-enabled", "--istiod-cert-additional-annotations=x"], "KEY=VALUE"; "no annotation")]
#[test_case(&["--istiod-cert-enabled=perhaps"], "true or false"; "neither")]
#[test_case(&["--istiod-cert-enabled", "--pilot-cert-provider=k8s.io/example.com/a"], "nothing beside --istiod-cert-enabled"; "two providers")]
#[test_case(&["--istiod-cert-enabled", "--kubernetes=off"], "an API server"; "no API server")]
fn a_mistake_in_istiods_certificate_is_named(more: &[&str], expected: &str) {
    let cluster: &[&str] = if more.iter().any(|flag| flag.starts_with("--kubernetes")) {
        &[]
    } else {
        &["--kubernetes=in-cluster"]
    };
    let error = read(&[cluster, more].concat()).unwrap_err().to_string();
    assert!(error.contains(expected), "{error} lacks {expected}");
}

#[test]
fn roots_and_leader() {
    let config = read(&[]).unwrap();
    assert!(config.roots.distribution.config_maps);
    assert_eq!(
        (config.leader.namespace.as_str(), config.leader.lease),
        ("istio-system", None)
    );
    let config = read(&[
        "--root-configmaps=off",
        "--configmap-namespace-selector= ",
        "--cluster-trust-bundle=istio.io:istiod-ca:root-cert",
        "--extra-roots-file=/r",
        "--agent-namespace=ensign-node",
        "--leader-election-namespace=ensign",
        "--leader-election-lease=istio-csr",
    ])
    .unwrap();
    let distribution = config.roots.distribution;
    assert!(!distribution.config_maps && distribution.selector.is_none() && distribution.bundle.is_some());
    assert_eq!(distribution.agents.as_deref(), Some("ensign-node"));
    assert_eq!(config.leader.lease.as_deref(), Some("istio-csr"));
    for wrong in [
        "--agent-namespace=a.b",
        "--root-configmaps=yes",
        "--cluster-trust-bundle=a:b",
        "--leader-election-namespace=A",
    ] {
        let error = read(&[wrong]).unwrap_err().to_string();
        assert!(error.contains(wrong.split('=').next().unwrap()), "{error}");
    }
}
