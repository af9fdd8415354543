//! Policies from Istio's configuration, with a file and without: who is the default, who is allowed, what contradicts.

use std::sync::Arc;
use std::sync::LazyLock;

use ensign_testkit::TestCa;
use test_case::test_case;

use super::*;
use crate::mesh::{Mesh, MeshConfig, ProxyConfig, ProxyConfigs};

const DOMAIN: &str = "clusterissuers.cert-manager.io";

static CA: LazyLock<TestCa> = LazyLock::new(|| TestCa::new("root"));

/// Istio's configuration under construction.
#[derive(Default, Clone)]
struct World {
    signers: Vec<&'static str>,
    more: String,
    metadata: Option<&'static str>,
    proxies: Vec<(&'static str, &'static str)>,
    settings: IstioSettings,
}

impl World {
    /// A mesh whose signers have these short names, all with roots.
    fn of(signers: &[&'static str]) -> Self {
        Self {
            signers: signers.to_vec(),
            settings: IstioSettings {
                signer_domain: Some(DOMAIN.parse().unwrap()),
                ..IstioSettings::default()
            },
            ..Self::default()
        }
    }

    fn k8s_signer(mut self, full: &str) -> Self {
        self.settings.k8s_signer = Some(full.parse().unwrap());
        self
    }

    fn any(mut self) -> Self {
        self.settings.choice = SignerChoice::AnyMeshSigner;
        self
    }

    fn mesh(&self) -> Arc<Mesh> {
        let mut text = self.more.clone();
        if let Some(name) = self.metadata {
            text.push_str(&format!(
                "defaultConfig: {{proxyMetadata: {{ISTIO_META_CERT_SIGNER: '{name}'}}}}\n"
            ));
        }
        if !self.signers.is_empty() {
            let names: Vec<_> = self.signers.iter().map(|name| format!("{DOMAIN}/{name}")).collect();
            let pem = CA.root_pem().replace('\n', "\n    ");
            text.push_str(&format!(
                "caCertificates:\n- certSigners: [{}]\n  pem: |\n    {pem}\n",
                names.join(", ")
            ));
        }
        if text.is_empty() {
            text.push_str("{}");
        }
        let config = MeshConfig::parse(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
        let object = |(namespace, signer): &(&str, &str)| ProxyConfig {
            namespace: (*namespace).to_owned(),
            name: "pc".to_owned(),
            created: None,
            selector: false,
            cert_signer: Some((*signer).to_owned()),
        };
        let proxies = ProxyConfigs::new(self.proxies.iter().map(object).collect());
        Arc::new(Mesh::new(config, proxies, "istio-system"))
    }

    fn compose(&self, file: Option<&str>) -> Result<Policy, PolicyError> {
        let mesh = self.mesh();
        Policy::compose(Sources {
            file,
            istio: Some(Istio {
                mesh: &mesh,
                settings: &self.settings,
            }),
            trust_domain: None,
        })
    }

    fn alone(&self) -> Policy {
        self.compose(None).unwrap()
    }
}

fn file(rest: &str) -> String {
    format!("apiVersion: ensign.mesh/v1\n{rest}")
}

/// Signer and chooser, or the reason of the denial.
fn judge(policy: &Policy, namespace: &str, signer: &str) -> Result<(String, ChosenBy), &'static str> {
    let signer: Option<SignerName> = (!signer.is_empty()).then(|| signer.parse().unwrap());
    match policy.grant(wish(namespace, "sleep", signer.as_ref())) {
        Ok(grant) => Ok((grant.signer.to_string(), grant.chosen_by)),
        Err(denial) => Err(denial.reason()),
    }
}

fn granted(policy: &Policy, namespace: &str, signer: &str) -> Result<String, &'static str> {
    judge(policy, namespace, signer).map(|(signer, _)| signer)
}

#[test]
fn a_default_is_compared_whole_and_shown_in_part() {
    let long: &'static str = format!("{}.{}", "a".repeat(60), "b".repeat(60)).leak();
    let wrong: &'static str = format!("{long}.c").leak();
    let mut world = World::of(&[long]);
    world.proxies = vec![("foo", long), ("bar", wrong)];
    let policy = world.alone();
    assert_eq!(granted(&policy, "foo", ""), Ok(long.to_owned()));
    let denial = policy.grant(wish("bar", "sleep", None)).unwrap_err();
    assert_eq!(denial.reason(), "default_signer_unknown");
    let text = denial.to_string();
    assert!(text.contains(&long[..80]) && !text.contains(&long[..81]), "{text}");
}

/// Every combination of the five sources of a default: absent, saying "none" (where that can be said), or naming a signer.
#[test]
fn the_precedence_of_defaults_is_complete() {
    const SAID: [Option<&str>; 3] = [None, Some(""), Some("name")];
    let mut seen = std::collections::BTreeMap::new();
    for rule in [None, Some("name")] {
        for own in SAID {
            for root in SAID {
                for metadata in SAID {
                    for k8s in [None, Some("name")] {
                        let name = |said: Option<&str>, name| said.map(|said| if said.is_empty() { "" } else { name });
                        let mut world = World::of(&["by-rule", "by-own", "by-root", "by-metadata", "by-k8s"]);
                        world.metadata = name(metadata, "by-metadata");
                        world.proxies.extend(name(own, "by-own").map(|name| ("foo", name)));
                        world
                            .proxies
                            .extend(name(root, "by-root").map(|name| ("istio-system", name)));
                        if k8s.is_some() {
                            world = world.k8s_signer(&format!("{DOMAIN}/by-k8s"));
                        }
                        // The words of Istio: each level overrides the next, also with nothing.
                        let override_ = [
                            name(own, "by-own"),
                            name(root, "by-root"),
                            name(metadata, "by-metadata"),
                        ];
                        let in_root = [name(root, "by-root"), name(metadata, "by-metadata")];
                        let expect = |rule: bool, levels: &[Option<&'static str>]| {
                            if rule {
                                return Ok("by-rule");
                            }
                            match levels.iter().flatten().next() {
                                Some(name) if !name.is_empty() => Ok(*name),
                                _ if k8s.is_some() => Ok("by-k8s"),
                                _ => Err("no_default_signer"),
                            }
                        };
                        let default = if rule.is_some() { "  default: by-rule\n" } else { "" };
                        let text = file(&format!(
                            "rules:\n- namespace: '*'\n  serviceAccounts: ['*']\n  signers: [by-rule, by-own, by-root, by-metadata, by-k8s]\n{default}"
                        ));
                        let with_file = world.compose(Some(&text)).unwrap();
                        let alone = world.alone();
                        let case = format!("rule {rule:?} own {own:?} root {root:?} metadata {metadata:?} k8s {k8s:?}");
                        let owned = |expected: Result<&str, &'static str>| expected.map(str::to_owned);
                        let in_foo = granted(&with_file, "foo", "");
                        assert_eq!(in_foo, owned(expect(rule.is_some(), &override_)), "{case}");
                        let expected = owned(expect(rule.is_some(), &in_root));
                        assert_eq!(granted(&with_file, "istio-system", ""), expected, "{case}");
                        assert_eq!(granted(&alone, "foo", ""), owned(expect(false, &override_)), "{case}");
                        assert_eq!(granted(&alone, "bar", ""), owned(expect(false, &in_root)), "{case}");
                        *seen.entry(format!("{in_foo:?}")).or_insert(0) += 1;
                    }
                }
            }
        }
    }
    assert_eq!(seen.values().sum::<i32>(), 108);
    assert_eq!(seen.len(), 6, "each outcome occurs: {seen:?}");
}

#[test]
fn who_chose_is_known() {
    let mut world = World::of(&["a", "b", "c", "d"]).k8s_signer(&format!("{DOMAIN}/d"));
    world.metadata = Some("c");
    world.proxies = vec![("foo", "a")];
    let chosen = |world: &World, namespace, signer| judge(&world.alone(), namespace, signer).unwrap().1;
    assert_eq!(chosen(&world, "foo", ""), ChosenBy::ProxyConfig);
    assert_eq!(chosen(&world, "foo", "a"), ChosenBy::Request);
    assert_eq!(chosen(&world, "bar", ""), ChosenBy::ProxyMetadata);
    world.proxies.push(("istio-system", "b"));
    assert_eq!(chosen(&world, "bar", ""), ChosenBy::RootProxyConfig);
    world.metadata = None;
    world.proxies.clear();
    assert_eq!(chosen(&world, "bar", ""), ChosenBy::K8sSigner);
}

#[test_case("foo", "", Ok("foo"); "the default of its ProxyConfig")]
#[test_case("foo", "foo", Ok("foo"); "the same by name, as its agent asks for it")]
#[test_case("foo", "bar", Err("signer_not_allowed"); "the signer of another namespace")]
#[test_case("foo", "istio-system", Err("signer_not_allowed"); "the mesh's default, which is not its own")]
#[test_case("foo", "baz", Err("signer_not_allowed"); "a signer that does not exist")]
#[test_case("elsewhere", "", Ok("istio-system"); "the mesh's default")]
#[test_case("elsewhere", "foo", Err("signer_not_allowed"); "another than the mesh's default")]
#[test_case("typo", "", Err("default_signer_unknown"); "a default that is no signer")]
#[test_case("typo", "fo", Err("default_signer_unknown"); "the same by name")]
#[test_case("typo", "foo", Err("signer_not_allowed"); "another than a default that is no signer")]
#[test_case("odd", "", Err("default_signer_unknown"); "a default that can be no name")]
fn without_a_file_the_default_is_all_there_is(namespace: &str, signer: &str, expected: Result<&str, &'static str>) {
    let mut world = World::of(&["istio-system", "foo", "bar"]);
    world.metadata = Some("istio-system");
    world.proxies = vec![("foo", "foo"), ("bar", "bar"), ("typo", "fo"), ("odd", "../Foo")];
    assert_eq!(granted(&world.alone(), namespace, signer), expected.map(str::to_owned));
}

#[test_case("foo", "bar", Ok("bar"); "any signer of the mesh")]
#[test_case("foo", "", Ok("foo"); "the default stays")]
#[test_case("foo", "baz", Err("signer_not_allowed"); "no signer of the mesh")]
#[test_case("elsewhere", "foo", Ok("foo"); "also where there is no default")]
#[test_case("elsewhere", "", Ok("own"); "K8S_SIGNER of another domain")]
#[test_case("elsewhere", "own", Ok("own"); "the default by name")]
#[test_case("foo", "own", Err("signer_not_allowed"); "K8S_SIGNER is no signer of the domain")]
fn any_mesh_signer_is_what_istiod_does(namespace: &str, signer: &str, expected: Result<&str, &'static str>) {
    let mut world = World::of(&["foo", "bar"]).k8s_signer("example.com/own").any();
    world.more = "trustDomain: cluster.local\n".to_owned();
    world.proxies = vec![("foo", "foo")];
    // Its root is that of everybody.
    let pem = CA.root_pem().replace('\n', "\n    ");
    world.more.push_str(&format!(
        "caCertificates:\n- pem: |\n    {pem}\n- certSigners: [{DOMAIN}/foo, {DOMAIN}/bar]\n  pem: |\n    {pem}\n"
    ));
    world.signers.clear();
    let policy = world.alone();
    assert!(policy.is_any_mesh_signer());
    assert_eq!(granted(&policy, namespace, signer), expected.map(str::to_owned));
}

#[test]
fn a_policy_file_beside_any_mesh_signer_contradicts() {
    let error = World::of(&["foo"])
        .any()
        .compose(Some(&file("rules: []\n")))
        .unwrap_err();
    assert!(error.to_string().contains("--signer-choice"), "{error}");
}

const RULES: &str = "
rules:
- namespace: foo
  serviceAccounts: ['*']
  signers: [foo, own]
- namespace: bar
  serviceAccounts: ['*']
  signers: [own]
";

#[test_case("foo", "", Ok("foo"); "the ProxyConfig's, within the rule")]
#[test_case("foo", "own", Ok("own"); "a signer of the file")]
#[test_case("foo", "bar", Err("signer_not_allowed"); "a signer of the mesh beyond the rule")]
#[test_case("bar", "", Err("default_signer_not_allowed"); "the ProxyConfig's, beyond the rule")]
#[test_case("bar", "bar", Err("signer_not_allowed"); "the same by name")]
#[test_case("bar", "own", Ok("own"); "what the rule allows")]
#[test_case("elsewhere", "", Err("no_rule"); "no rule, whatever Istio says")]
fn with_a_file_its_rules_decide(namespace: &str, signer: &str, expected: Result<&str, &'static str>) {
    let mut world = World::of(&["foo", "bar"]);
    world.proxies = vec![("foo", "foo"), ("bar", "bar"), ("elsewhere", "foo")];
    let text = file(&format!("signers:\n- name: own\n  local: {{dir: /own}}{RULES}"));
    let policy = world.compose(Some(&text)).unwrap();
    assert_eq!(granted(&policy, namespace, signer), expected.map(str::to_owned));
    let names: Vec<_> = policy.signers().map(|spec| spec.name.to_string()).collect();
    assert_eq!(names, ["own", "bar", "foo"]);
}

#[test]
fn a_rule_may_name_only_what_is_defined_somewhere() {
    let text = file("rules:\n- namespace: foo\n  serviceAccounts: ['*']\n  signers: [foo]\n");
    World::of(&["foo"]).compose(Some(&text)).unwrap();
    let error = World::of(&["bar"]).compose(Some(&text)).unwrap_err().to_string();
    assert!(
        error.contains("line 5: the rule allows signer \"foo\", which is not defined"),
        "{error}"
    );
}

#[test]
fn signers_of_the_mesh_are_kubernetes_signers_with_their_roots_in_hand() {
    let mut world = World::of(&["foo", "ns.issuer"]);
    world.more = "trustDomain: example.org\n".to_owned();
    let policy = world.alone();
    let specs: Vec<_> = policy.signers().collect();
    assert_eq!(specs.len(), 2);
    assert_eq!(specs[1].name.as_str(), "ns.issuer");
    assert_eq!(specs[0].trust_domain.as_str(), "example.org");
    let Backend::KubernetesCsr(spec) = &specs[0].backend else {
        panic!("another backend");
    };
    assert_eq!(spec.signer_name, format!("{DOMAIN}/foo"));
    assert!(spec.approve && !spec.request.exact_lifetime);
    let RootsSpec::Pem(pem) = &spec.roots else {
        panic!("roots from elsewhere: {:?}", spec.roots);
    };
    assert_eq!(pem.trim(), CA.root_pem().trim());
}

#[test]
fn only_signers_of_the_domain_are_signers() {
    let mut world = World::of(&["foo"]);
    let names = |world: &World| -> Vec<String> { world.alone().signers().map(|spec| spec.name.to_string()).collect() };
    world.settings.signer_domain = Some("example.com".parse().unwrap());
    assert_eq!(names(&world), [] as [&str; 0]);
    world.settings.signer_domain = None;
    assert_eq!(names(&world), [] as [&str; 0]);
    world = world.k8s_signer(&format!("{DOMAIN}/foo"));
    assert_eq!(names(&world), ["foo"]);
    assert_eq!(granted(&world.alone(), "a", ""), Ok("foo".to_owned()));
}

/// A ProxyConfig chooses among the operator's signers; it makes none, whatever roots are for everybody.
#[test]
fn a_proxy_config_defines_no_signer_and_proxy_metadata_does() {
    let pem = CA.root_pem().replace('\n', "\n    ");
    let mut world = World::of(&[]);
    world.more = format!("caCertificates:\n- pem: |\n    {pem}\n");
    world.proxies = vec![("foo", "letsencrypt")];
    assert_eq!(granted(&world.alone(), "foo", ""), Err("default_signer_unknown"));
    world.metadata = Some("letsencrypt");
    assert_eq!(granted(&world.alone(), "foo", ""), Ok("letsencrypt".to_owned()));
}

#[test]
fn a_signer_without_roots_is_refused_by_name_and_by_default_and_said() {
    let mut world = World::of(&["foo"]).k8s_signer("example.com/own");
    world.metadata = Some("bare");
    world.proxies = vec![("foo", "foo"), ("own", "")];
    let policy = world.alone();
    assert_eq!(granted(&policy, "foo", ""), Ok("foo".to_owned()));
    assert_eq!(granted(&policy, "bar", ""), Err("signer_without_roots"));
    assert_eq!(granted(&policy, "bar", "bare"), Err("signer_without_roots"));
    assert_eq!(granted(&policy, "own", ""), Err("signer_without_roots"));
    assert_eq!(
        granted(&world.clone().any().alone(), "foo", "bare"),
        Err("signer_without_roots")
    );
    let said: Vec<_> = policy
        .refused_signers()
        .map(|(name, why)| (name.as_str(), why.to_owned()))
        .collect();
    assert_eq!(said[0].0, "bare");
    assert!(said[0].1.contains(&format!("certSigners: [{DOMAIN}/bare]")), "{said:?}");
    assert_eq!(said[1].0, "own");
    let denial = policy.grant(wish("bar", "sleep", None)).unwrap_err().to_string();
    assert!(denial.contains("no root for"), "{denial}");

    // A rule may name it all the same: the roots come back without a change of the file.
    let text = file("rules:\n- namespace: '*'\n  serviceAccounts: ['*']\n  signers: [bare]\n  default: bare\n");
    let policy = world.compose(Some(&text)).unwrap();
    assert_eq!(granted(&policy, "a", ""), Err("signer_without_roots"));
}

#[test]
fn roots_of_the_mesh_serve_signers_of_the_file_too() {
    let world = World::of(&["foo"]);
    let spec = |signer: &str| {
        let text = file(&format!(
            "signers:\n- name: mine\n  {signer}\n  roots: {{mesh: true}}\nrules: []\n"
        ));
        world.compose(Some(&text))
    };
    let rooted = |signer: &str| {
        let policy = spec(signer).unwrap();
        policy.signers().any(|spec| spec.name.as_str() == "mine")
    };
    assert!(rooted(&format!("kubernetesCsr: {{signerName: {DOMAIN}/foo}}")));
    assert!(!rooted(&format!("kubernetesCsr: {{signerName: {DOMAIN}/bar}}")));
    assert!(rooted(
        "certManager: {namespace: a, issuer: {name: foo, kind: ClusterIssuer}}"
    ));
    assert!(!rooted("certManager: {namespace: a, issuer: {name: foo}}"));
    for without_name in [
        "certManager: {namespace: a}",
        "certManager: {namespace: a, issuer: {name: foo, kind: X, group: b.c}}",
    ] {
        let error = spec(without_name).unwrap_err().to_string();
        assert!(
            error.contains("an issuer that has a name as a Kubernetes signer"),
            "{error}"
        );
    }
}

#[test]
fn the_file_may_describe_a_signer_of_the_mesh_more_closely_and_not_otherwise() {
    let world = World::of(&["foo"]);
    let with = |signer: &str| world.compose(Some(&file(&format!("signers:\n- name: foo\n  {signer}\nrules: []\n"))));
    let closer = with(&format!(
        "kubernetesCsr: {{signerName: {DOMAIN}/foo, approve: false}}\n  roots: {{mesh: true}}"
    ));
    let policy = closer.unwrap();
    let specs: Vec<_> = policy.signers().collect();
    assert_eq!(specs.len(), 1);
    assert!(matches!(&specs[0].backend, Backend::KubernetesCsr(spec) if !spec.approve));
    for other in [
        "local: {dir: /foo}",
        "kubernetesCsr: {signerName: example.com/foo}\n  roots: /r",
    ] {
        let error = with(other).unwrap_err().to_string();
        let expected =
            format!("line 3: signer \"foo\" is {DOMAIN}/foo in the mesh configuration and something else here");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn a_default_that_the_file_defines_is_that_signer_and_no_clash() {
    let mut world = World::of(&["foo"]);
    world.metadata = Some("own");
    let text = file(
        "signers:\n- name: own\n  local: {dir: /own}\nrules:\n- namespace: '*'\n  serviceAccounts: ['*']\n  signers: [own]\n",
    );
    let policy = world.compose(Some(&text)).unwrap();
    assert_eq!(judge(&policy, "a", ""), Ok(("own".to_owned(), ChosenBy::ProxyMetadata)));
    assert!(policy.refused_signers().next().is_none());
}

#[test]
fn k8s_signer_may_be_one_of_the_file_and_not_two_at_once() {
    let world = World::of(&["foo"]).k8s_signer("example.com/foo");
    let error = world.compose(None).unwrap_err().to_string();
    assert!(error.contains("K8S_SIGNER example.com/foo and"), "{error}");
    let text = file(
        "signers:\n- name: unnamed\n  kubernetesCsr: {signerName: example.com/foo}\n  roots: /r\nrules:\n- namespace: '*'\n  serviceAccounts: ['*']\n  signers: [foo, unnamed]\n",
    );
    let policy = world.compose(Some(&text)).unwrap();
    assert_eq!(judge(&policy, "a", ""), Ok(("unnamed".to_owned(), ChosenBy::K8sSigner)));
}

#[test_case("a.example", None, None, Ok("a.example"); "the file's")]
#[test_case("", Some("b.example"), None, Ok("b.example"); "the setting's")]
#[test_case("", None, Some("c.example"), Ok("c.example"); "the mesh configuration's")]
#[test_case("", None, None, Ok("cluster.local"); "Istio's where nobody says one")]
#[test_case("a.example", Some("a.example"), Some("a.example"), Ok("a.example"); "all say one")]
#[test_case("a.example", None, Some("c.example"), Err("line 2: the trust domain is a.example in the policy file and c.example in the mesh configuration"); "file and mesh")]
#[test_case("a.example", Some("b.example"), None, Err("b.example in --trust-domain"); "file and setting")]
#[test_case("", Some("b.example"), Some("c.example"), Err("b.example in --trust-domain and c.example in the mesh configuration"); "setting and mesh")]
fn one_trust_domain(file_says: &str, flag: Option<&str>, mesh_says: Option<&str>, expected: Result<&str, &str>) {
    let mut world = World::of(&["foo"]);
    world.more = mesh_says.map_or_else(String::new, |name| format!("trustDomain: {name}\n"));
    let line = if file_says.is_empty() {
        String::new()
    } else {
        format!("trustDomain: {file_says}\n")
    };
    let text = file(&format!("{line}rules: []\n"));
    let flag: Option<TrustDomain> = flag.map(|name| name.parse().unwrap());
    let mesh = world.mesh();
    let policy = Policy::compose(Sources {
        file: Some(&text),
        istio: Some(Istio {
            mesh: &mesh,
            settings: &world.settings,
        }),
        trust_domain: flag.as_ref(),
    });
    match (policy, expected) {
        (Ok(policy), Ok(name)) => {
            assert_eq!(policy.trust_domain().as_str(), name);
            assert!(policy.signers().all(|spec| spec.trust_domain.as_str() == name));
        }
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (other, _) => panic!("{other:?}, expected {expected:?}"),
    }
}

/// As in istiod: an alias is a name that peers may have, never one that we issue under.
#[test]
fn an_alias_changes_nothing_of_what_is_issued() {
    let mut world = World::of(&["foo"]);
    let before = world.alone();
    world.more = "trustDomainAliases: [old.example]\n".to_owned();
    let after = world.alone();
    assert_eq!(before.trust_domain(), after.trust_domain());
    assert_eq!(
        before.signers().collect::<Vec<_>>(),
        after.signers().collect::<Vec<_>>()
    );
}

#[test_case(None, None, "", (86_400, 600, 7_776_000); "Istio's own")]
#[test_case(Some(1), Some(2), "", (3600, 600, 7200); "the settings'")]
#[test_case(None, Some(2), "", (7200, 600, 7200); "a cap draws the default down")]
#[test_case(None, None, "ttl: {default: 3h, min: 1h, max: 4h}\n", (10_800, 3600, 14_400); "the file's")]
#[test_case(Some(2), None, "ttl: {default: 3h, min: 1h, max: 4h}\n", (7200, 3600, 14_400); "the settings' before the file's")]
#[test_case(None, None, "ttl: {default: 3m, min: 1m, max: 4h}\n", (600, 600, 14_400); "never below the API's")]
fn lifetimes_of_mesh_signers(default: Option<u64>, max: Option<u64>, in_file: &str, expected: (u64, u64, u64)) {
    let mut world = World::of(&["foo"]);
    world.settings.default_ttl = default.map(Duration::from_hours);
    world.settings.max_ttl = max.map(Duration::from_hours);
    let text = file(&format!(
        "{in_file}rules:\n- namespace: '*'\n  serviceAccounts: ['*']\n  signers: [foo]\n  default: foo\n"
    ));
    let policy = world.compose(Some(&text)).unwrap();
    let granted = |seconds| {
        let wish = Wish {
            ttl_seconds: seconds,
            ..wish("a", "b", None)
        };
        policy.grant(wish).unwrap().ttl.as_secs()
    };
    assert_eq!((granted(0), granted(1), granted(i64::MAX)), expected);
}

#[test]
fn lifetimes_that_contradict_each_other_are_named_with_their_settings() {
    let mut world = World::of(&["foo"]);
    world.settings.default_ttl = Some(Duration::from_hours(3));
    world.settings.max_ttl = Some(Duration::from_hours(2));
    let error = world.compose(None).unwrap_err().to_string();
    assert!(
        error.contains("DEFAULT_WORKLOAD_CERT_TTL") && error.contains("10800s"),
        "{error}"
    );
}

#[test]
fn alone_a_file_must_say_its_trust_domain_and_have_a_signer() {
    let error = Policy::parse(&file("rules: []\n")).unwrap_err().to_string();
    assert!(
        error.contains("trustDomain is missing") && error.contains("signers is empty"),
        "{error}"
    );
}

#[test]
fn mistakes_of_the_file_and_against_the_mesh_are_told_at_once() {
    let mut world = World::of(&["foo"]);
    world.more = "trustDomain: c.example\n".to_owned();
    let text = file(
        "trustDomain: a.example\nsigners:\n- name: foo\n  local: {dir: /foo}\nrules:\n- namespace: A\n  serviceAccounts: ['*']\n  signers: [baz]\n",
    );
    let PolicyError::Mistakes(mistakes) = world.compose(Some(&text)).unwrap_err() else {
        panic!("expected mistakes");
    };
    assert_eq!(mistakes.len(), 4, "{mistakes:?}");
}
