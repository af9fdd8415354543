//! Tables: what a policy file may say, and what a policy makes of a wish.

mod backends;
mod istio;
mod page;

use std::time::Duration;

use test_case::test_case;

use super::*;

const FILE: &str = r#"
apiVersion: ensign.mesh/v1
trustDomain: cluster.local
ttl: {default: 24h, min: 10m, max: 2160h}
backdate: 2m
keyTypes: [P-256, RSA-2048]
signers:
- name: foo
  local: {dir: /etc/ensign/foo}
  roots: /etc/ensign/foo/roots.pem
  ttl: {max: 1h}
- name: bar
  local: {dir: /etc/ensign/bar, selfSigned: true}
rules:
- namespace: foo
  serviceAccounts: ["*"]
  signers: [foo]
  default: foo
- namespace: bar
  serviceAccounts: [sleep]
  signers: [foo, bar]
- namespace: "*"
  serviceAccounts: [gateway]
  signers: [bar]
  default: bar
"#;

fn wish<'a>(namespace: &'a str, account: &'a str, signer: Option<&'a SignerName>) -> Wish<'a> {
    Wish {
        namespace,
        service_account: account,
        signer,
        key_type: KeyType::P256,
        ttl_seconds: 1800,
    }
}

#[test_case("foo", "httpbin", "", Ok("foo"); "the default of the rule")]
#[test_case("foo", "httpbin", "foo", Ok("foo"); "an allowed wish")]
#[test_case("foo", "httpbin", "bar", Err("signer_not_allowed"); "a wish beyond the rule")]
#[test_case("foo", "gateway", "bar", Err("signer_not_allowed"); "the first rule that fits decides alone")]
#[test_case("foo", "httpbin", "baz", Err("signer_not_allowed"); "an unknown signer")]
#[test_case("bar", "sleep", "foo", Ok("foo"); "one of two")]
#[test_case("bar", "sleep", "bar", Ok("bar"); "the other of two")]
#[test_case("bar", "sleep", "", Err("no_default_signer"); "no default")]
#[test_case("bar", "gateway", "", Ok("bar"); "the wildcard namespace")]
#[test_case("bar", "other", "", Err("no_rule"); "nobody's account")]
#[test_case("elsewhere", "sleep", "foo", Err("no_rule"); "nobody's namespace")]
fn who_may_use_which_signer(namespace: &str, account: &str, signer: &str, expected: Result<&str, &str>) {
    let policy = Policy::parse(FILE).unwrap();
    let signer: Option<SignerName> = (!signer.is_empty()).then(|| signer.parse().unwrap());
    let granted = policy.grant(wish(namespace, account, signer.as_ref()));
    match (granted, expected) {
        (Ok(grant), Ok(name)) => assert_eq!(grant.signer.as_str(), name),
        (Err(denial), Err(reason)) => assert_eq!(denial.reason(), reason),
        (other, _) => panic!("{other:?}, expected {expected:?}"),
    }
}

#[test]
fn a_key_type_outside_of_the_policy_is_refused() {
    let policy = Policy::parse(FILE).unwrap();
    let wish = Wish {
        key_type: KeyType::P384,
        ..wish("foo", "httpbin", None)
    };
    assert_eq!(policy.grant(wish).unwrap_err().reason(), "key_type_not_allowed");
}

#[test]
fn the_cap_of_a_signer_overrides_the_common_one_and_draws_the_default_down() {
    let policy = Policy::parse(FILE).unwrap();
    let hour = Duration::from_secs(3600);
    let asked = |seconds| Wish {
        ttl_seconds: seconds,
        ..wish("foo", "httpbin", None)
    };
    let clamped = policy.grant(asked(86_400)).unwrap();
    assert_eq!((clamped.ttl, clamped.ttl_change), (hour, TtlChange::Clamped));
    let defaulted = policy.grant(asked(0)).unwrap();
    assert_eq!((defaulted.ttl, defaulted.ttl_change), (hour, TtlChange::Defaulted));
}

#[test]
fn specs_carry_what_the_file_says() {
    let policy = Policy::parse(FILE).unwrap();
    let specs: Vec<_> = policy.signers().collect();
    assert_eq!(specs.len(), 2);
    assert_eq!(specs[0].roots.as_deref(), Some("/etc/ensign/foo/roots.pem".as_ref()));
    assert_eq!(specs[0].backdate, Duration::from_secs(120));
    let Backend::Local(local) = &specs[1].backend else {
        panic!("{:?}", specs[1].backend)
    };
    assert!(local.self_signed);
    assert_eq!(policy.trust_domain().to_string(), "cluster.local");
}

#[test]
fn an_empty_rule_list_is_a_policy_that_refuses_all() {
    let start = FILE.find("rules:").unwrap();
    let policy = Policy::parse(&format!("{}rules: []\n", &FILE[..start])).unwrap();
    assert_eq!(
        policy.grant(wish("foo", "httpbin", None)).unwrap_err().reason(),
        "no_rule"
    );
}

fn limits_of(text: &str) -> [SignerLimits; 2] {
    let policy = Policy::parse(text).unwrap();
    let limits: Vec<_> = policy.limits().map(|(_, limits)| limits).collect();
    limits.try_into().unwrap()
}

#[test]
fn limits_come_value_by_value_from_the_signer_the_file_and_the_defaults() {
    let default = SignerLimits::default();
    assert_eq!(limits_of(FILE), [default, default]);
    let text = FILE
        .replace("backdate: 2m", "backdate: 2m\nlimits: {concurrency: 20, rate: 50}")
        .replace("  ttl: {max: 1h}", "  ttl: {max: 1h}\n  limits: {queue: 0, rate: 2.5}");
    let foo = SignerLimits {
        concurrency: 20,
        queue: 0,
        rate: Rate::new(2.5),
    };
    let bar = SignerLimits {
        concurrency: 20,
        rate: Rate::new(50.0),
        ..default
    };
    assert_eq!(limits_of(&text), [foo, bar]);
    // A signer's limits are no part of what it is started from.
    let (before, after) = (Policy::parse(FILE).unwrap(), Policy::parse(&text).unwrap());
    assert!(before.signers().eq(after.signers()));
    assert_ne!(before, after);
}

#[test_case("apiVersion: ensign.mesh/v1", "apiVersion: ensign.mesh/v2", "line 2: apiVersion is \"ensign.mesh/v2\""; "another version")]
#[test_case("trustDomain: cluster.local", "trustDomain: 'a b'", "line 3: trustDomain"; "a bad trust domain")]
#[test_case("min: 10m", "min: 10", "line 4: ttl.min"; "a duration without unit")]
#[test_case("min: 10m", "min: 48h", "ttl.default"; "a floor above the default")]
#[test_case("backdate: 2m", "backdate: -2m", "line 5: backdate"; "a negative backdate")]
#[test_case("backdate: 2m", "backdate: 2h", "backdate is above"; "a long backdate")]
#[test_case("P-256, ", "P-521, ", "line 6: keyTypes"; "an unknown key type")]
#[test_case("- name: bar", "- name: foo", "line 12: signer \"foo\" is defined twice"; "a signer twice")]
#[test_case("- name: bar", "- name: Bar", "line 12: signer"; "a signer in upper case")]
#[test_case("  local: {dir: /etc/ensign/foo}\n", "", "signer \"foo\" has no backend"; "no backend")]
#[test_case("signers: [foo, bar]", "signers: [foo, baz]", "signer \"baz\", which is not defined"; "an undefined signer in a rule")]
#[test_case("signers: [foo, bar]", "signers: []", "allows no signer"; "a rule without signers")]
#[test_case("  default: foo", "  default: bar", "default \"bar\" is not among its signers"; "a default that is not allowed")]
#[test_case("[sleep]", "[]", "serviceAccounts of a rule is empty"; "a rule without accounts")]
#[test_case("[sleep]", "[sleep, \"*\"]", "beside names"; "a wildcard beside names")]
#[test_case("[sleep]", "[\"sl*\"]", "neither a Kubernetes name"; "a pattern")]
#[test_case("backdate: 2m", "backdat: 2m", "backdat"; "an unknown field")]
#[test_case("selfSigned: true", "selfSinged: true", "selfSinged"; "an unknown field deep inside")]
#[test_case("namespace: foo", "namespace: [foo]", "cannot be read"; "a wrong type")]
#[test_case("backdate: 2m", "backdate: 2m\nbackdate: 3m", "cannot be read"; "a duplicate key")]
#[test_case("backdate: 2m", "backdate: 2m\n---\nrules: []", "cannot be read"; "two documents")]
#[test_case("namespace: foo", "namespace:", "policy"; "a namespace that is nothing")]
#[test_case("namespace: foo", "namespace: Foo", "neither a Kubernetes name"; "a namespace that cannot be")]
#[test_case("namespace: foo", "namespace: '* '", "neither a Kubernetes name"; "a wildcard and a blank")]
#[test_case("signers: [foo, bar]", "signers: ['*']", "\"*\", which is not defined"; "a wildcard for signers")]
#[test_case("  default: foo", "  default: ''", "is not among its signers"; "an empty default")]
#[test_case("ttl: {max: 1h}", "ttl: {max: 1h, default: 2h}", "signer \"foo\": ttl.default"; "a default above the signer's cap")]
#[test_case("ttl: {max: 1h}", "ttl: {max: 5m}", "signer \"foo\": ttl.min"; "a signer's cap below the common floor")]
#[test_case("ttl: {max: 1h}", "ttl: {max: 2562048h}", "ttl.max"; "a duration that no clock can hold")]
#[test_case("backdate: 2m", "limits: {concurrency: 0}", "line 5: limits.concurrency is 0: expected 1"; "nobody at once")]
#[test_case("backdate: 2m", "limits: {concurrency: 1000001}", "line 5: limits.concurrency"; "too many at once")]
#[test_case("backdate: 2m", "limits: {queue: 1000001}", "line 5: limits.queue"; "too many waiting")]
#[test_case("backdate: 2m", "limits: {queue: -1}", "cannot be read"; "less than nobody waiting")]
#[test_case("  ttl: {max: 1h}", "  limits: {rate: 0}", "line 11: limits.rate is 0: expected"; "no rate")]
#[test_case("  ttl: {max: 1h}", "  limits: {rate: -1}", "limits.rate is -1"; "a negative rate")]
#[test_case("  ttl: {max: 1h}", "  limits: {rate: .inf}", "limits.rate is inf"; "an endless rate")]
#[test_case("  ttl: {max: 1h}", "  limits: {rate: .nan}", "limits.rate is NaN"; "a rate that is no number")]
#[test_case("  ttl: {max: 1h}", "  limits: {rate: 5/s}", "cannot be read"; "a rate with a unit")]
#[test_case("  ttl: {max: 1h}", "  limits: {burst: 5}", "burst"; "an unknown limit")]
fn a_mistake_is_named_with_its_place(from: &str, to: &str, expected: &str) {
    assert!(FILE.contains(from));
    let error = Policy::parse(&FILE.replacen(from, to, 1)).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    assert!(!error.contains('\n'), "{error:?} is more than one line");
}

#[test]
fn without_a_signer_there_is_no_policy() {
    let start = FILE.find("signers:").unwrap();
    let error = Policy::parse(&format!("{}signers: []\nrules: []\n", &FILE[..start])).unwrap_err();
    assert!(error.to_string().contains("signers is empty"), "{error}");
}

#[test]
fn the_order_of_the_rules_decides_also_behind_wildcards() {
    let (head, rules) = FILE.split_at(FILE.find("rules:").unwrap());
    let (first, last) = rules.split_at(rules.find("- namespace: \"*\"").unwrap());
    let turned = format!("{head}rules:\n{last}{}", first.trim_start_matches("rules:\n"));
    let granted = |text: &str| {
        let policy = Policy::parse(text).unwrap();
        policy.grant(wish("foo", "gateway", None)).unwrap().signer.to_string()
    };
    assert_eq!((&*granted(FILE), &*granted(&turned)), ("foo", "bar"));
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = FILE
        .replacen("P-256, ", "P-521, ", 1)
        .replacen("[sleep]", "[]", 1)
        .replacen("- name: bar", "- name: foo", 1);
    let PolicyError::Mistakes(mistakes) = Policy::parse(&text).unwrap_err() else {
        panic!("expected mistakes");
    };
    assert!(mistakes.len() >= 3, "{mistakes:?}");
}

#[test_case(""; "empty")]
#[test_case("signers: ["; "truncated")]
#[test_case("- 1"; "a list")]
fn what_is_no_policy_at_all_is_refused(text: &str) {
    assert!(matches!(Policy::parse(text), Err(PolicyError::Form(_))));
}
