//! Istio's mesh configuration: the block of Istio's own page on custom CAs, and all that can be wrong with one.

use std::sync::LazyLock;

use ensign_testkit::TestCa;
use proptest::prelude::*;
use test_case::test_case;

use super::*;

/// The certificates of three cluster issuers.
static CAS: LazyLock<[TestCa; 3]> = LazyLock::new(|| ["istio-system", "foo", "bar"].map(TestCa::new));

const DOMAIN: &str = "clusterissuers.cert-manager.io";

/// `meshConfig` of <https://istio.io/latest/docs/tasks/security/cert-management/custom-ca-k8s/>, as it stands there.
const PAGE: &str = "\
defaultConfig:
  proxyMetadata:
    ISTIO_META_CERT_SIGNER: istio-system
caCertificates:
- pem: |
  $istioca
  certSigners:
  - clusterissuers.cert-manager.io/istio-system
- pem: |
  $fooca
  certSigners:
  - clusterissuers.cert-manager.io/foo
- pem: |
  $barca
  certSigners:
  - clusterissuers.cert-manager.io/bar
";

/// The page's block as the shell makes it: only the first line of a certificate stays where the page has it.
fn as_the_shell_makes_it() -> String {
    let mut text = PAGE.to_owned();
    for (name, ca) in ["$istioca", "$fooca", "$barca"].iter().zip(&*CAS) {
        text = text.replace(name, ca.root_pem().trim_end());
    }
    text
}

fn indented(pem: &str, by: usize) -> String {
    pem.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

/// The page's block with every line of each certificate indented below its key.
fn repaired() -> String {
    let mut text = PAGE.to_owned();
    for (name, ca) in ["$istioca", "$fooca", "$barca"].iter().zip(&*CAS) {
        text = text.replace(&format!("  {name}\n"), &indented(&ca.root_pem(), 4));
    }
    text
}

fn signer(name: &str) -> KubernetesSigner {
    format!("{DOMAIN}/{name}").parse().unwrap()
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn parse(text: &str) -> MeshConfig {
    MeshConfig::parse(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// The certificate authorities whose roots a signer has, by number.
fn roots_of(config: &MeshConfig, name: &str) -> Vec<usize> {
    let Some(bundle) = config.roots(&signer(name), &trust_domain()).unwrap() else {
        return Vec::new();
    };
    let known: Vec<_> = (0..CAS.len())
        .filter(|index| bundle.contains_all(&Bundle::parse_pem(&CAS[*index].root_pem()).unwrap()))
        .collect();
    assert_eq!(known.len(), bundle.len(), "each root once, and none that nobody gave");
    known
}

/// One entry: the certificate authorities in its pem, and its signers.
fn entry(cas: &[usize], signers: &[&str]) -> String {
    let pem: String = cas.iter().map(|index| CAS[*index].root_pem()).collect();
    with_pem(&pem, signers)
}

fn with_pem(pem: &str, signers: &[&str]) -> String {
    let signers: Vec<_> = signers.iter().map(|name| format!("{DOMAIN}/{name}")).collect();
    format!(
        "- certSigners: [{}]\n  pem: |\n{}",
        signers.join(", "),
        indented(pem, 4)
    )
}

fn entries(entries: &[String]) -> String {
    format!("caCertificates:\n{}", entries.concat())
}

fn kinds(config: &MeshConfig) -> Vec<&'static str> {
    config.notices().iter().map(|notice| notice.kind.as_str()).collect()
}

#[test]
fn the_block_of_istios_page_works_once_its_certificates_are_indented() {
    let config = parse(&repaired());
    assert_eq!(config.default_signer(), Some("istio-system"));
    assert_eq!(config.trust_domain(), None);
    let names: Vec<_> = config.cert_signers().map(KubernetesSigner::path).collect();
    assert_eq!(names, ["bar", "foo", "istio-system"]);
    for (index, name) in ["istio-system", "foo", "bar"].into_iter().enumerate() {
        assert_eq!(roots_of(&config, name), [index]);
    }
    assert_eq!(roots_of(&config, "other"), [] as [usize; 0]);
    assert_eq!(kinds(&config), [] as [&str; 0]);
}

#[test]
fn the_page_as_it_stands_is_told_which_line_to_indent_and_how_far() {
    let error = MeshConfig::parse(&as_the_shell_makes_it()).unwrap_err().to_string();
    // The line of the first certificate: the sixth of the block.
    assert!(
        error.starts_with("line 6: the certificate of `pem: |` (line 5)"),
        "{error}"
    );
    assert!(error.contains("at least 3 spaces"), "{error}");

    // A mend that only indents what is seen on the page, as `$istioca`, leaves the shell's other lines where they were.
    let half = PAGE.replace("  $istioca\n", &format!("    {}", CAS[0].root_pem()));
    let error = MeshConfig::parse(&half).unwrap_err().to_string();
    assert!(error.starts_with("line 7: the certificate"), "{error}");
}

#[test]
fn an_entry_without_signers_counts_for_all_and_several_for_one_merge() {
    let text = entries(&[entry(&[0, 1], &["foo"]), entry(&[1], &["foo", "bar"]), entry(&[2], &[])]);
    let config = parse(&text);
    assert_eq!(roots_of(&config, "foo"), [0, 1, 2]);
    assert_eq!(roots_of(&config, "bar"), [1, 2]);
    assert_eq!(roots_of(&config, "never-named"), [2]);
}

#[test_case("caCertificates", "ca_certificates"; "entries")]
#[test_case("certSigners", "cert_signers"; "signers")]
#[test_case("defaultConfig", "default_config"; "defaults")]
#[test_case("proxyMetadata", "proxy_metadata"; "metadata")]
fn the_other_spelling_of_protobuf_means_the_same(json: &str, proto: &str) {
    let text = repaired();
    assert!(text.contains(json));
    assert_eq!(parse(&text.replace(json, proto)), parse(&text));
}

#[test]
fn what_is_istios_own_business_is_passed_over() {
    let text = format!(
        "accessLogFile: /dev/stdout\nextensionProviders:\n- name: x\n  opentelemetry: {{port: 4317, service: y}}\nenablePrometheusMerge: true\n{}",
        repaired().replace("  proxyMetadata:", "  concurrency: 2\n  proxyMetadata:\n    OTHER: '1'")
    );
    assert_eq!(parse(&text), parse(&repaired()));
}

#[test]
fn as_in_istiod_the_last_of_a_key_that_occurs_twice_counts() {
    let config = parse("trustDomain: a.example\nmeshMTLS: {}\nmeshMTLS: {}\ntrustDomain: b.example\n");
    assert_eq!(config.trust_domain().unwrap().as_str(), "b.example");
}

#[test_case("trustDomain: example.org", Some("example.org"); "a trust domain")]
#[test_case("trustDomain: me@example.org", Some("me.example.org"); "an address, as istiod writes it into identities")]
#[test_case("trustDomain: ''", None; "an empty one says nothing")]
#[test_case("trustDomain:", None; "nothing says nothing")]
#[test_case("{}", None; "an empty file")]
#[test_case("caCertificates:", None; "no entries")]
fn trust_domains(text: &str, expected: Option<&str>) {
    assert_eq!(parse(text).trust_domain().map(TrustDomain::as_str), expected);
}

#[test_case("", "it is empty"; "nothing at all")]
#[test_case("# only a comment\n", "it is empty"; "a comment")]
#[test_case("null", "it is empty"; "null")]
#[test_case("trustDomain: A b", "trustDomain"; "a trust domain that is none")]
#[test_case("rootNamespace: Foo", "rootNamespace: \"Foo\""; "a namespace that is none")]
#[test_case("trustDomain: [a]", "line 1"; "a list for a text")]
#[test_case("caCertificates: {pem: x}", "line 1"; "a mapping for a list")]
#[test_case("a: b\ncaCertificates:\n- certSigners: x\n", "line 3"; "a text for a list")]
#[test_case("a: [", "line"; "cut off")]
#[test_case("- a\n", "line 1"; "a list")]
#[test_case("a: b\n---\na: c\n", "read"; "two documents")]
fn what_cannot_be_read_is_refused_with_its_place(text: &str, expected: &str) {
    let error = MeshConfig::parse(text).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    assert!(!error.contains('\n'), "{error:?}");
}

#[test]
fn a_bad_entry_is_named_and_the_rest_counts() {
    let damaged = CAS[1].root_pem().replace("MII", "!!!");
    let text = entries(&[
        entry(&[0], &["istio-system"]),
        with_pem(&damaged, &["foo"]),
        entry(&[2], &["bar"]),
    ]);
    let config = parse(&text);
    assert_eq!(kinds(&config), ["bad_certificates"]);
    let line = text.lines().position(|line| line.contains("/foo")).unwrap() + 1;
    let notice = config.notices()[0].to_string();
    assert!(
        notice.starts_with(&format!("caCertificates[1] (line {line}): pem: ")),
        "{notice}"
    );
    assert!(notice.contains(&format!("{DOMAIN}/foo keep")), "{notice}");
    assert_eq!(
        ["istio-system", "foo", "bar"].map(|name| roots_of(&config, name)),
        [vec![0], vec![], vec![2]]
    );
    assert!(
        config.cert_signers().any(|name| *name == signer("foo")),
        "it is a signer all the same, one without roots"
    );
}

#[test_case("pem: ''", "no certificate"; "empty")]
#[test_case("certSigners: []", "no certificate"; "no pem")]
#[test_case("pem: just words", "no certificate"; "no certificate in it")]
#[test_case("pem: \"-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n\"", "cannot be read"; "no DER")]
#[test_case("pem: \"-----BEGIN CERTIFICATE-----\\nAAAA\"", "cannot be read"; "cut off")]
fn certificates_that_are_none(entry: &str, expected: &str) {
    let config = parse(&format!("caCertificates:\n- {entry}\n"));
    assert_eq!(kinds(&config), ["bad_certificates"]);
    let notice = config.notices()[0].to_string();
    assert!(notice.contains(expected), "{notice:?} lacks {expected:?}");
    assert!(notice.contains("all signers"), "{notice}");
}

#[test]
fn a_leaf_is_no_root_and_a_key_is_never_shown() {
    let end = std::time::SystemTime::now() + std::time::Duration::from_hours(1);
    let chain = CAS[0].serving(&["a.example"], end).chain_pem;
    let leaf = chain.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    let config = parse(&entries(&[with_pem(leaf, &["foo"])]));
    assert!(
        config.notices()[0].text.contains("no CA certificate"),
        "{:?}",
        config.notices()
    );

    let key = CAS[0].issuing_key_pem();
    let config = parse(&entries(&[with_pem(&key, &["foo"])]));
    assert_eq!(kinds(&config), ["bad_certificates"]);
    let body = key.lines().nth(1).unwrap();
    assert!(!format!("{config:?}").contains(body));

    let secret = format!(
        "caCertificates:\n- certSigners: ['{}']\n",
        key.replace('\n', "\n\n    ")
    );
    let shown = MeshConfig::parse(&secret)
        .map(|config| format!("{config:?}"))
        .unwrap_or_default();
    assert!(shown.contains("BadSignerName") && !shown.contains(body), "{shown}");
}

#[test]
fn names_of_signers_that_are_all_wrong_do_not_make_an_entry_for_everybody() {
    let text = entries(&[entry(&[0], &["*"]), entry(&[1], &["foo", "b/c"])]);
    let config = parse(&text);
    assert_eq!(kinds(&config), ["bad_signer_name"; 2]);
    assert_eq!(roots_of(&config, "anybody"), [] as [usize; 0]);
    assert_eq!(roots_of(&config, "foo"), [1]);
}

#[test]
fn a_bundle_url_is_not_supported_and_said() {
    let text = format!(
        "caCertificates:\n- spiffeBundleUrl: https://a.example\n  certSigners: [{DOMAIN}/foo]\n{}",
        entry(&[1], &["bar"]).replace("- certSigners", "- spiffe_bundle_url: https://b.example\n  certSigners")
    );
    let config = parse(&text);
    assert_eq!(kinds(&config), ["spiffe_bundle_url"; 2]);
    assert_eq!(["foo", "bar"].map(|name| roots_of(&config, name)), [vec![], vec![1]]);
}

#[test]
fn roots_of_other_trust_domains_are_given_to_nobody() {
    let of = |ca: usize, domains: &str| {
        entry(&[ca], &["foo"]).replace("- certSigners", &format!("- trustDomains: [{domains}]\n  certSigners"))
    };
    let text = format!(
        "trustDomain: cluster.local\ntrustDomainAliases: [old.local]\n{}",
        entries(&[
            of(0, "other.local"),
            of(1, "other.local, old.local"),
            of(2, "cluster.local")
        ])
    );
    let config = parse(&text);
    assert_eq!(roots_of(&config, "foo"), [1, 2]);
    assert_eq!(kinds(&config), ["other_trust_domain"]);
    assert_eq!(config.aliases(), ["old.local"]);
}

#[test]
fn a_slip_takes_no_root_from_anybody_until_it_is_mended() {
    let good = parse(&entries(&[entry(&[0], &["foo"]), entry(&[1], &["bar"])]));
    // Foo's certificate is damaged; bar's entry changes as it should.
    let slip = parse(&entries(&[with_pem("oops", &["foo"]), entry(&[2], &["bar"])])).after(&good);
    assert_eq!(["foo", "bar"].map(|name| roots_of(&slip, name)), [vec![0], vec![2]]);
    // Still so after another change, and not twice.
    let again = parse(&entries(&[with_pem("oops", &["foo"]), entry(&[1], &["bar"])])).after(&slip);
    assert_eq!(["foo", "bar"].map(|name| roots_of(&again, name)), [vec![0], vec![1]]);
    let third = parse(&entries(&[with_pem("oops", &["foo"]), entry(&[1], &["bar"])])).after(&again);
    assert_eq!(third, again);
    // Mended: only what it says counts.
    let mended = parse(&entries(&[entry(&[2], &["foo"]), entry(&[1], &["bar"])])).after(&third);
    assert_eq!(["foo", "bar"].map(|name| roots_of(&mended, name)), [vec![2], vec![1]]);
}

#[test]
fn a_removed_entry_is_removed_and_a_broken_one_for_all_keeps_what_was_for_all() {
    let before = parse(&entries(&[entry(&[0], &["foo"]), entry(&[1], &[])]));
    let removed = parse(&entries(&[entry(&[1], &[])])).after(&before);
    assert_eq!(roots_of(&removed, "foo"), [1]);
    let broken = parse(&entries(&[with_pem("oops", &[])])).after(&before);
    assert_eq!(roots_of(&broken, "foo"), [1]);
    // A new root takes effect beside a broken one, and what the signer had stays.
    let both = parse(&entries(&[entry(&[2], &["foo"]), with_pem("oops", &["foo"])])).after(&before);
    assert_eq!(roots_of(&both, "foo"), [0, 1, 2]);
    // Without a before there is nothing to keep.
    let fresh = parse(&entries(&[entry(&[2], &["foo"]), with_pem("oops", &["foo"])]));
    assert_eq!(roots_of(&fresh.after(&MeshConfig::default()), "foo"), [2]);
}

/// Each would bring all that is kept along again, at every change.
#[test]
fn two_broken_entries_keep_each_root_once() {
    let broken = || parse(&entries(&[with_pem("oops", &["foo"]), with_pem("oops", &["foo"])]));
    let first = broken().after(&parse(&entries(&[entry(&[0, 1], &["foo"]), entry(&[2], &["foo"])])));
    assert_eq!(roots_of(&first, "foo"), [0, 1, 2]);
    assert_eq!(broken().after(&first), first);
}

#[test]
fn the_root_namespace_is_the_control_planes_unless_said() {
    let pc = |namespace: &str| ProxyConfig {
        namespace: namespace.to_owned(),
        name: "pc".to_owned(),
        created: None,
        selector: false,
        cert_signer: Some(namespace.to_owned()),
    };
    let proxies = ProxyConfigs::new(vec![pc("istio-system"), pc("istio-config")]);
    let chosen = |text: &str| {
        let mesh = Mesh::new(parse(text), proxies.clone(), "istio-system");
        mesh.default_signer("foo").unwrap().signer.to_owned()
    };
    assert_eq!(chosen("{}"), "istio-system");
    assert_eq!(chosen("rootNamespace: istio-config"), "istio-config");
    assert_eq!(chosen("rootNamespace: ''"), "istio-system");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_or_speak_in_two_lines(text in "(?s)[\\-a-zA-Z:|>\\[\\]{}'\" \n&*!#]{0,200}") {
        if let Err(error) = MeshConfig::parse(&text) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn the_page_survives_any_cut_without_panic(at in 0_usize..4000) {
        let text = repaired();
        let cut: String = text.chars().take(at).collect();
        _ = MeshConfig::parse(&cut);
    }

    /// However entries are split over signers: a signer has the union of those that name it or nobody.
    #[test]
    fn a_signer_has_what_its_entries_give(
        drawn in prop::collection::vec((prop::sample::subsequence(vec![0_usize, 1, 2], 1..=3), prop::sample::subsequence(vec!["foo", "bar"], 0..=2)), 0..6),
    ) {
        let text = if drawn.is_empty() {
            "{}".to_owned()
        } else {
            entries(&drawn.iter().map(|(cas, signers)| entry(cas, signers)).collect::<Vec<_>>())
        };
        let config = parse(&text);
        for name in ["foo", "bar", "baz"] {
            let mut expected: Vec<usize> = drawn
                .iter()
                .filter(|(_, signers)| signers.is_empty() || signers.contains(&name))
                .flat_map(|(cas, _)| cas.clone())
                .collect();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(roots_of(&config, name), expected);
        }
    }
}
