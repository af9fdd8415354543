//! What each flag of istio-csr has become, as docs/migrate-from-istio-csr.md says it.
//!
//! The flags here are istio-csr's own list (its `cmd/app/options` and `pkg/istiodcert`, and what it has from
//! `k8s.io/cli-runtime`), so that neither the page nor we can leave one out.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// One flag as istio-csr declares it.
struct Flag {
    long: &'static str,
    short: Option<char>,
    default: &'static str,
    /// Another value, and what goes with it.
    other: &'static [&'static str],
    /// Two values of a list.
    list: Option<[&'static str; 2]>,
}

const fn flag(long: &'static str, default: &'static str, other: &'static [&'static str]) -> Flag {
    Flag {
        long,
        short: None,
        default,
        other,
        list: None,
    }
}

impl Flag {
    const fn short(self, short: char) -> Self {
        Self {
            short: Some(short),
            ..self
        }
    }

    const fn list(self, values: [&'static str; 2]) -> Self {
        Self {
            list: Some(values),
            ..self
        }
    }
}

const FLAGS: [Flag; 56] = [
    flag("log-level", "1", &["--log-level=5"]).short('v'),
    flag("log-format", "text", &["--log-format=JSON"]),
    flag("readiness-probe-port", "6060", &["--readiness-probe-port=7060"]),
    flag("readiness-probe-path", "/readyz", &["--readiness-probe-path=/ready"]),
    flag("metrics-port", "9402", &["--metrics-port=9403"]),
    flag(
        "preserve-certificate-requests",
        "false",
        &["--preserve-certificate-requests"],
    )
    .short('d'),
    flag(
        "certificate-namespace",
        "istio-system",
        &["--certificate-namespace=certs"],
    )
    .short('c'),
    flag(
        "issuer-enabled",
        "true",
        &[
            "--issuer-enabled=false",
            "--runtime-issuance-config-map-name=a",
            "--runtime-issuance-config-map-namespace=b",
        ],
    )
    .short('e'),
    flag("issuer-name", "istio-ca", &["--issuer-name=other"]).short('u'),
    flag("issuer-kind", "Issuer", &["--issuer-kind=ClusterIssuer"]).short('k'),
    flag(
        "issuer-group",
        "cert-manager.io",
        &["--issuer-group=awspca.cert-manager.io"],
    )
    .short('g'),
    flag(
        "runtime-issuance-config-map-name",
        "",
        &[
            "--runtime-issuance-config-map-name=a",
            "--runtime-issuance-config-map-namespace=b",
        ],
    ),
    flag(
        "runtime-issuance-config-map-namespace",
        "",
        &[
            "--runtime-issuance-config-map-namespace=b",
            "--runtime-issuance-config-map-name=a",
        ],
    ),
    flag(
        "certificate-request-additional-annotations",
        "",
        &["--certificate-request-additional-annotations=a=b"],
    )
    .list(["a=b", "c=d"]),
    flag("trust-domain", "cluster.local", &["--trust-domain=foo.bar"]),
    flag("root-ca-file", "", &["--root-ca-file=/roots/ca.pem"]),
    flag(
        "serving-certificate-duration",
        "1h",
        &["--serving-certificate-duration=20m"],
    )
    .short('t'),
    flag(
        "serving-certificate-dns-names",
        "cert-manager-istio-csr.cert-manager.svc",
        &["--serving-certificate-dns-names=a"],
    )
    .list(["a", "b"]),
    flag(
        "serving-certificate-key-size",
        "2048",
        &["--serving-certificate-key-size=384"],
    ),
    flag("serving-signature-algorithm", "RSA", &[]),
    flag(
        "serving-tls-cipher-suites",
        "",
        &["--serving-tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
    )
    .list([
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    ]),
    flag(
        "serving-tls-min-version",
        "",
        &["--serving-tls-min-version=VersionTLS13"],
    ),
    flag(
        "serving-tls-curve-preferences",
        "",
        &["--serving-tls-curve-preferences=CurveP256"],
    )
    .list(["X25519", "P-384"]),
    flag("serving-address", "0.0.0.0:6443", &["--serving-address=127.0.0.1:0"]).short('a'),
    flag(
        "max-client-certificate-duration",
        "1h",
        &["--max-client-certificate-duration=5m"],
    )
    .short('m'),
    flag("cluster-id", "Kubernetes", &["--cluster-id=east"]),
    flag(
        "enable-client-cert-authenticator",
        "false",
        &["--enable-client-cert-authenticator"],
    ),
    flag(
        "ca-trusted-node-accounts",
        "",
        &["--ca-trusted-node-accounts=istio-system/ztunnel"],
    )
    .list(["a/b", "c/d"]),
    flag(
        "leader-election-namespace",
        "istio-system",
        &["--leader-election-namespace=a"],
    ),
    flag(
        "configmap-namespace-selector",
        "",
        &["--configmap-namespace-selector=a in (b,c)"],
    ),
    flag(
        "disable-kubernetes-client-rate-limiter",
        "false",
        &["--disable-kubernetes-client-rate-limiter"],
    ),
    flag("max-concurrent-reconciles", "1", &["--max-concurrent-reconciles=10"]),
    flag("istiod-cert-enabled", "false", &["--istiod-cert-enabled"]),
    flag("istiod-cert-name", "istiod-dynamic", &["--istiod-cert-name=a"]),
    flag("istiod-cert-namespace", "istio-system", &["--istiod-cert-namespace=a"]),
    flag("istiod-cert-duration", "1h", &["--istiod-cert-duration=2h"]),
    flag("istiod-cert-renew-before", "30m", &["--istiod-cert-renew-before=20m"]),
    flag(
        "istiod-cert-key-algorithm",
        "RSA",
        &["--istiod-cert-key-algorithm=ecdsa"],
    ),
    flag("istiod-cert-key-size", "2048", &["--istiod-cert-key-size=4096"]),
    flag(
        "istiod-cert-additional-dns-names",
        "",
        &["--istiod-cert-additional-dns-names=a.example"],
    )
    .list(["a", "b"]),
    flag(
        "istiod-cert-additional-annotations",
        "",
        &["--istiod-cert-additional-annotations=a=b"],
    )
    .list(["a=b", "c=d"]),
    flag(
        "istiod-cert-istio-revisions",
        "",
        &["--istiod-cert-istio-revisions=canary"],
    )
    .list(["default", "canary"]),
    flag("kubeconfig", "", &["--kubeconfig=/k"]),
    flag("context", "", &["--context=c", "--kubeconfig=/k"]),
    flag("cluster", "", &["--cluster=c"]),
    flag("user", "", &["--user=u"]),
    flag("namespace", "", &["--namespace=n"]).short('n'),
    flag("server", "", &["--server=https://127.0.0.1"]).short('s'),
    flag("token", "", &["--token=planted"]),
    flag("as", "", &["--as=a"]),
    flag("as-group", "", &["--as-group=a"]),
    flag("as-uid", "", &["--as-uid=a"]),
    flag("certificate-authority", "", &["--certificate-authority=/c"]),
    flag("client-certificate", "", &["--client-certificate=/c"]),
    flag("client-key", "", &["--client-key=/c"]),
    flag("insecure-skip-tls-verify", "false", &["--insecure-skip-tls-verify"]),
];

/// Those of `k8s.io/cli-runtime` that go with them.
const MORE: [Flag; 4] = [
    flag("tls-server-name", "", &["--tls-server-name=a"]),
    flag("request-timeout", "0", &["--request-timeout=1s"]),
    flag("cache-dir", "", &["--cache-dir=/c"]),
    flag("disable-compression", "false", &["--disable-compression"]),
];

/// What the page says of one flag.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Here {
    Same,
    Default(String),
    NoEffect(String),
    Refused(String),
}

#[derive(Debug)]
struct Row {
    short: Option<char>,
    default: String,
    here: Here,
}

/// The table of the page, by flag.
fn table() -> BTreeMap<String, Row> {
    const PAGE: &str = include_str!("../../../../docs/migrate-from-istio-csr.md");
    let mut rows = BTreeMap::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| `--")) {
        let cells: Vec<&str> = line[1..line.len() - 1].split('|').map(str::trim).collect();
        let [names, default, here, remark] = cells[..] else {
            panic!("{line} has {} cells", cells.len());
        };
        let names: Vec<&str> = names.split(", ").map(|name| name.trim_matches('`')).collect();
        let remark = remark.to_owned();
        let here = match here.split_once(' ') {
            None if here == "same" => Here::Same,
            None if here == "refused" => Here::Refused(remark),
            Some(("default", value)) => Here::Default(value.trim_matches('`').to_owned()),
            Some(("no", "effect")) => Here::NoEffect(remark),
            _ => panic!("{line}: {here:?} says nothing"),
        };
        let row = Row {
            short: names.get(1).and_then(|name| name.strip_prefix('-')?.chars().next()),
            default: default.trim_matches('`').to_owned(),
            here,
        };
        let long = names[0].trim_start_matches("--").to_owned();
        assert!(rows.insert(long, row).is_none(), "{line}: twice");
    }
    rows
}

/// As istio-csr would be started, but for some flags.
fn start(without: &[&str], with: &[&str]) -> Result<Config, ConfigError> {
    let least = [
        "--serving-from=cert-manager",
        "--certificate-namespace=istio-system",
        "--issuer-enabled=true",
        "--istiod-cert-enabled=true",
    ];
    let kept = least
        .iter()
        .filter(|flag| !without.iter().any(|name| flag.starts_with(&format!("--{name}="))));
    match Command::read(["ensign-ra"].iter().chain(kept).chain(with))? {
        Command::Run(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

/// Everything that the settings come to. That the trust domain was said is no difference; what was said is in the policy.
fn all_of(config: &Config) -> String {
    let config = Config {
        trust_domain: None,
        ..config.clone()
    };
    format!("{config:?}")
}

/// What a line comes to, beside the same line without it. Flags of the line replace those of the start.
fn change(flag: &Flag, line: &[&str]) -> (String, String) {
    let named: Vec<&str> = line
        .iter()
        .filter_map(|word| word.trim_start_matches('-').split('=').next())
        .chain([flag.long])
        .collect();
    let changed = start(&named, line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    let plain = start(&[flag.long], &[]).unwrap_or_else(|error| panic!("without {}: {error}", flag.long));
    (all_of(&changed), all_of(&plain))
}

fn all_flags() -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().chain(&MORE)
}

#[test]
fn the_page_has_each_flag_of_istio_csr_and_no_other() {
    let table = table();
    let listed: BTreeSet<&str> = table.keys().map(String::as_str).collect();
    let known: BTreeSet<&str> = all_flags().map(|flag| flag.long).collect();
    assert_eq!(listed, known);
    for flag in all_flags() {
        let row = &table[flag.long];
        assert_eq!(
            (row.short, row.default.as_str()),
            (flag.short, flag.default),
            "{}",
            flag.long
        );
    }
}

#[test]
fn a_flag_that_is_the_same_has_the_same_default_and_means_something() {
    let table = table();
    for flag in all_flags().filter(|flag| table[flag.long].here == Here::Same) {
        let default = format!("--{}={}", flag.long, flag.default);
        let (said, plain) = change(flag, &[&default]);
        assert_eq!(said, plain, "{default} changes something");
        let (other, plain) = change(flag, flag.other);
        assert_ne!(other, plain, "{:?} changes nothing", flag.other);
        if let Some(short) = flag.short {
            let value = flag.other[0].split_once('=').map_or("true", |(_, value)| value);
            let short = format!("-{short}={value}");
            let line: Vec<&str> = [short.as_str()]
                .into_iter()
                .chain(flag.other[1..].iter().copied())
                .collect();
            assert_eq!(change(flag, &line).0, other, "{short}");
        }
    }
}

#[test]
fn a_flag_with_another_default_says_which() {
    let table = table();
    for flag in all_flags() {
        let Here::Default(ours) = &table[flag.long].here else {
            continue;
        };
        let (said, plain) = change(flag, &[&format!("--{}={ours}", flag.long)]);
        assert_eq!(said, plain, "--{} has another default than {ours}", flag.long);
        let theirs = format!("--{}={}", flag.long, flag.default);
        // Refused here, or another thing: `same` would be wrong either way.
        if let Ok(config) = start(&[flag.long], &[&theirs]) {
            assert_ne!(all_of(&config), plain, "{theirs} changes nothing");
        }
        if !flag.other.is_empty() {
            let (other, plain) = change(flag, flag.other);
            assert_ne!(other, plain, "{:?} changes nothing", flag.other);
        }
    }
}

#[test]
fn lists_may_be_repeated_or_hold_commas() {
    for flag in all_flags() {
        let Some([a, b]) = flag.list else { continue };
        let repeated = [format!("--{}={a}", flag.long), format!("--{}={b}", flag.long)];
        let joined = format!("--{}={a},{b}", flag.long);
        let repeated: Vec<&str> = repeated.iter().map(String::as_str).collect();
        assert_eq!(change(flag, &repeated).0, change(flag, &[&joined]).0, "--{}", flag.long);
        assert_ne!(
            change(flag, &repeated).0,
            change(flag, &repeated[..1]).0,
            "--{}",
            flag.long
        );
    }
}

#[test]
fn a_flag_without_effect_warns_in_the_words_of_the_page() {
    let table = table();
    let mut seen = 0;
    for flag in all_flags() {
        let Here::NoEffect(why) = &table[flag.long].here else {
            continue;
        };
        seen += 1;
        let (said, plain) = change(flag, &[&format!("--{}={}", flag.long, flag.default)]);
        assert_eq!(said, plain);
        let config = start(&[], flag.other).unwrap();
        let [warning] = &config.without_effect[..] else {
            panic!("{:?}", config.without_effect);
        };
        assert!(warning.contains(flag.long) && warning.ends_with(why), "{warning}");
        let rest = Config {
            without_effect: Vec::new(),
            ..config
        };
        assert_eq!(all_of(&rest), plain);
    }
    assert_eq!(seen, 2);
}

#[test]
fn a_flag_that_is_refused_is_so_in_the_words_of_the_page() {
    let table = table();
    for flag in all_flags() {
        let Here::Refused(instead) = &table[flag.long].here else {
            continue;
        };
        let short = flag.short.map(|short| format!("-{short}"));
        let separate = format!("--{}", flag.long);
        for line in [flag.other[0], &separate].into_iter().chain(short.as_deref()) {
            let error = start(&[], &[line, "value"]).unwrap_err();
            assert!(matches!(error, ConfigError::Refused(_)), "{line}: {error:?}");
            let text = error.to_string();
            assert!(text.starts_with('-') && text.ends_with(instead), "{text}");
            assert!(!text.contains("planted"), "{text}");
        }
    }
}

#[test]
fn another_unknown_flag_is_a_mistake_as_ever() {
    let error = start(&[], &["--no-such-flag"]).unwrap_err();
    assert!(matches!(error, ConfigError::Usage(_)), "{error:?}");
}
