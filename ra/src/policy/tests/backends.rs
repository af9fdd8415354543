//! Tables: signers behind the API server, and where their roots come from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use test_case::test_case;

use super::*;

const REST: &str = "
rules: []
";

fn file(signer: &str) -> String {
    format!("apiVersion: ensign.mesh/v1\ntrustDomain: cluster.local\nsigners:\n- name: foo\n{signer}{REST}")
}

fn backend(signer: &str) -> Backend {
    let text = file(signer);
    let policy = Policy::parse(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    policy.signers().next().unwrap().backend.clone()
}

fn request(deadline: u64, resume_window: u64, exact_lifetime: bool) -> RequestSpec {
    RequestSpec {
        deadline: Duration::from_secs(deadline),
        resume_window: Duration::from_secs(resume_window),
        exact_lifetime,
    }
}

#[test]
fn the_least_that_a_kubernetes_csr_signer_needs() {
    let seen = backend("  kubernetesCsr: {signerName: clusterissuers.cert-manager.io/foo}\n  roots: /r.pem\n");
    let expected = KubernetesCsrSpec {
        signer_name: "clusterissuers.cert-manager.io/foo".to_owned(),
        approve: true,
        roots: RootsSpec::File(PathBuf::from("/r.pem")),
        request: request(300, 300, false),
    };
    assert_eq!(seen, Backend::KubernetesCsr(expected));
}

#[test]
fn all_that_a_kubernetes_csr_signer_may_say() {
    let seen = backend(
        "  kubernetesCsr: {signerName: example.com/foo, approve: false}\n  roots: {clusterTrustBundle: 'example.com:foo:v1'}\n  lifetime: exact\n  deadline: 90s\n  resumeWindow: 0s\n",
    );
    let expected = KubernetesCsrSpec {
        signer_name: "example.com/foo".to_owned(),
        approve: false,
        roots: RootsSpec::ClusterTrustBundle {
            name: "example.com:foo:v1".to_owned(),
        },
        request: request(90, 0, true),
    };
    assert_eq!(seen, Backend::KubernetesCsr(expected));
}

#[test]
fn the_least_that_a_cert_manager_signer_needs() {
    let seen = backend("  certManager: {namespace: istio-system}\n  roots: {discover: true}\n");
    let expected = CertManagerSpec {
        namespace: "istio-system".to_owned(),
        issuer: None,
        runtime_issuer: None,
        annotations: BTreeMap::new(),
        preserve: false,
        roots: RootsSpec::Discover,
        request: request(300, 300, false),
    };
    assert_eq!(seen, Backend::CertManager(expected));
}

#[test]
fn a_config_map_may_name_the_issuer_and_requests_may_carry_annotations() {
    let seen = backend(
        "  certManager: {namespace: a, runtimeIssuer: {namespace: b, name: c.d}, annotations: {example.com/team: mesh}}\n  roots: {discover: true}\n",
    );
    let Backend::CertManager(spec) = seen else {
        panic!("another backend");
    };
    let expected = ConfigMapRef {
        namespace: "b".to_owned(),
        name: "c.d".to_owned(),
    };
    assert_eq!(spec.runtime_issuer, Some(expected));
    let annotation = ("example.com/team".to_owned(), "mesh".to_owned());
    assert_eq!(spec.annotations, BTreeMap::from([annotation]));
}

#[test_case("{name: ca}", ("Issuer", "cert-manager.io"); "an Issuer unless said")]
#[test_case("{name: ca, kind: ClusterIssuer}", ("ClusterIssuer", "cert-manager.io"); "a ClusterIssuer")]
#[test_case("{name: ca, kind: AWSPCAIssuer, group: awspca.cert-manager.io}", ("AWSPCAIssuer", "awspca.cert-manager.io"); "an external issuer")]
fn issuers(issuer: &str, (kind, group): (&str, &str)) {
    let signer = format!(
        "  certManager: {{namespace: a, issuer: {issuer}, preserve: true}}\n  roots: {{configMap: {{namespace: b, name: c.d, key: ca.crt}}}}\n  lifetime: any\n"
    );
    let Backend::CertManager(spec) = backend(&signer) else {
        panic!("another backend");
    };
    let expected = IssuerRef {
        name: "ca".to_owned(),
        kind: kind.to_owned(),
        group: group.to_owned(),
    };
    assert_eq!(spec.issuer, Some(expected));
    assert!(spec.preserve);
    let roots = RootsSpec::ConfigMap {
        namespace: "b".to_owned(),
        name: "c.d".to_owned(),
        key: "ca.crt".to_owned(),
    };
    assert_eq!(spec.roots, roots);
}

#[test]
fn roots_of_a_local_signer_may_be_a_path_or_a_file() {
    for roots in ["/r.pem", "{file: /r.pem}"] {
        let text = file(&format!("  local: {{dir: /d}}\n  roots: {roots}\n"));
        let policy = Policy::parse(&text).unwrap();
        assert_eq!(policy.signers().next().unwrap().roots, Some(PathBuf::from("/r.pem")));
    }
}

const CSR: &str = "  kubernetesCsr: {signerName: example.com/foo}\n";
const CM: &str = "  certManager: {namespace: a, issuer: {name: b}}\n";

#[test_case("", "no backend"; "nothing")]
#[test_case("  local: {dir: /d}\n  kubernetesCsr: {signerName: example.com/foo}\n", "more than one backend"; "two backends")]
#[test_case("  kubernetesCsr: {signerName: foo}\n  roots: /r\n", "line 5: signerName: \"foo\" is no full name"; "no domain")]
#[test_case("  kubernetesCsr: {signerName: example.com/a/b}\n  roots: /r\n", "line 5: signerName"; "two slashes")]
#[test_case("  kubernetesCsr: {signerName: example.com/foo, aprove: true}\n", "aprove"; "an unknown field of a backend")]
#[test_case("  kubernetesCsr: {approve: true}\n", "signerName"; "no name")]
#[test_case("  certManager: {namespace: A}\n  roots: /r\n", "line 5: certManager.namespace"; "a namespace that is none")]
#[test_case("  certManager: {namespace: a, issuer: {name: B}}\n  roots: /r\n", "line 5: issuer.name"; "an issuer that is none")]
#[test_case("  certManager: {namespace: a, issuer: {name: b, kind: 'x y'}}\n  roots: /r\n", "line 5: issuer.kind"; "a kind that is none")]
#[test_case("  certManager: {namespace: a, issuer: {name: b, group: X}}\n  roots: /r\n", "line 5: issuer.group"; "a group that is none")]
#[test_case("  certManager: {namespace: a, runtimeIssuer: {namespace: B, name: c}}\n  roots: /r\n", "line 5: runtimeIssuer.namespace"; "a ConfigMap in no namespace")]
#[test_case("  certManager: {namespace: a, annotations: {a/b/c: d}}\n  roots: /r\n", "line 5: certManager.annotations: \"a/b/c\" is no annotation key"; "an annotation that is none")]
#[test_case("  certManager: {namespace: a, annotations: {ensign.mesh/x: d}}\n  roots: /r\n", "line 5: certManager.annotations: \"ensign.mesh/x\" is one of our own"; "an annotation of ours")]
#[test_case(CSR, "\"foo\" has no roots"; "a CSR signer without roots")]
#[test_case(CM, "\"foo\" has no roots"; "a cert-manager signer without roots")]
#[test_case(&format!("{CSR}  roots: {{}}\n"), "line 6: roots: expected a path"; "roots that say nothing")]
#[test_case(&format!("{CSR}  roots: {{file: /r, mesh: true}}\n"), "line 6: roots: expected a path"; "two sources of roots")]
#[test_case(&format!("{CSR}  roots: {{mesh: false}}\n"), "line 6: roots: expected a path"; "a source that is off")]
#[test_case(&format!("{CSR}  roots: {{secret: x}}\n"), "secret"; "an unknown source, such as a Secret")]
#[test_case(&format!("{CSR}  roots: [a]\n"), "cannot be read"; "a list of roots")]
#[test_case(&format!("{CSR}  roots: {{mesh: true}}\n"), "line 6: roots: mesh needs Istio's mesh configuration"; "mesh roots without a mesh")]
#[test_case(&format!("{CSR}  roots: {{discover: true}}\n"), "line 6: roots: discover is for certManager"; "discovery without CertificateRequests")]
#[test_case(&format!("{CM}  roots: {{configMap: {{namespace: a, name: B, key: c}}}}\n"), "line 6: roots"; "a ConfigMap that is none")]
#[test_case(&format!("{CM}  roots: {{configMap: {{namespace: a, name: b, key: ''}}}}\n"), "line 6: roots"; "a key that is none")]
#[test_case(&format!("{CM}  roots: {{configMap: {{namespace: a, name: b}}}}\n"), "key"; "a key left out")]
#[test_case(&format!("{CM}  roots: {{clusterTrustBundle: 'a/b'}}\n"), "line 6: roots"; "a ClusterTrustBundle that is none")]
#[test_case(&format!("{CSR}  roots: /r\n  lifetime: longer\n"), "line 7: lifetime is \"longer\""; "an unknown lifetime")]
#[test_case(&format!("{CSR}  roots: /r\n  deadline: 0s\n"), "line 7: deadline is 0"; "no time to sign")]
#[test_case(&format!("{CSR}  roots: /r\n  deadline: 25h\n"), "line 7: deadline is above"; "more time than Kubernetes gives")]
#[test_case(&format!("{CSR}  roots: /r\n  resumeWindow: -1s\n"), "line 7: resumeWindow"; "a negative window")]
#[test_case(&format!("{CSR}  roots: /r\n  ttl: {{min: 5m}}\n"), "line 7: signer \"foo\": ttl.min 300s is below 600s"; "a floor below that of the API")]
#[test_case(&format!("{CSR}  roots: /r\n  ttl: {{max: 5m}}\n"), "signer \"foo\": ttl.min 600s is above ttl.max 300s"; "a cap below that of the API")]
#[test_case("  local: {dir: /d}\n  lifetime: exact\n", "line 6: lifetime is for kubernetesCsr"; "a lifetime of a local signer")]
#[test_case("  local: {dir: /d}\n  deadline: 1m\n", "line 6: deadline is for kubernetesCsr"; "a deadline of a local signer")]
#[test_case("  local: {dir: /d}\n  resumeWindow: 1m\n", "line 6: resumeWindow is for kubernetesCsr"; "a window of a local signer")]
#[test_case("  local: {dir: /d}\n  roots: {discover: true}\n", "line 6: roots of a local signer are a path"; "a local signer with roots from elsewhere")]
fn mistakes(signer: &str, expected: &str) {
    let error = Policy::parse(&file(signer)).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    assert!(!error.contains('\n'), "{error:?}");
}

#[test]
fn a_common_floor_below_that_of_the_csr_api_is_raised_for_its_signers_alone() {
    let text = "apiVersion: ensign.mesh/v1\ntrustDomain: cluster.local\nttl: {default: 2m, min: 1m}\nsigners:\n- name: foo\n  kubernetesCsr: {signerName: example.com/foo}\n  roots: /r\n- name: bar\n  local: {dir: /d}\nrules:\n- namespace: '*'\n  serviceAccounts: ['*']\n  signers: [foo, bar]\n";
    let policy = Policy::parse(text).unwrap();
    let granted = |signer: &str, seconds| {
        let signer: SignerName = signer.parse().unwrap();
        let wish = Wish {
            ttl_seconds: seconds,
            ..wish("a", "b", Some(&signer))
        };
        let grant = policy.grant(wish).unwrap();
        (grant.ttl.as_secs(), grant.ttl_change)
    };
    assert_eq!(granted("foo", 90), (600, TtlChange::Raised));
    assert_eq!(granted("foo", 0), (600, TtlChange::Defaulted));
    assert_eq!(granted("bar", 90), (90, TtlChange::Unchanged));
    assert_eq!(granted("bar", 0), (120, TtlChange::Defaulted));
}

#[test]
fn a_secret_in_the_place_of_roots_is_not_repeated() {
    let secret = "MHcCAQEEIBmU8f2cUQd3VJqkBzkGJ0wZ8mYx0zv4k5j3K9Lw2PqRoAoGCCqGSM49";
    let error = Policy::parse(&file(&format!("{CSR}  roots: {{file: {secret}}}\n"))).unwrap_err();
    assert!(error.to_string().contains("is no path but a secret"), "{error}");
    assert!(!error.to_string().contains(secret), "{error}");
}
