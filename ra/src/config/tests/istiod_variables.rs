//! What each variable of istiod's registration authority means here, as docs/migrate-from-istiod.md says it.

use std::collections::BTreeMap;

use ensign_testkit::TestCa;

use super::*;
use crate::mesh::{Mesh, MeshConfig, ProxyConfigs};
use crate::policy::{Istio, Policy, Sources};

/// The page's table: default of istiod, and what it is here.
fn table() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    const PAGE: &str = include_str!("../../../../docs/migrate-from-istiod.md");
    let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<&str> = line[1..line.len() - 1].split('|').map(str::trim).collect();
        let [variable, default, here, _] = cells[..] else {
            panic!("{line} has {} cells", cells.len());
        };
        (variable.trim_matches('`'), (default.trim_matches('`'), here))
    })
    .collect()
}

/// The flag of a variable.
fn flag(variable: &str) -> Option<String> {
    let command = Args::command();
    let mut found = command
        .get_arguments()
        .filter(|argument| argument.get_env().is_some_and(|name| name == variable));
    found.next()?.get_long().map(str::to_owned)
}

/// A root, indented as in a mesh configuration.
fn root() -> String {
    let root = TestCa::new("root").root_pem();
    root.lines().map(|line| format!("    {line}\n")).collect()
}

/// What the settings come to, with a mesh of one signer.
fn policy(root: &str, more: &[&str]) -> Policy {
    let istio = read_istio(&[&["--mesh-config-map=istio"], more].concat())
        .unwrap_or_else(|error| panic!("{more:?}: {error}"))
        .istio
        .unwrap();
    let mesh = format!("caCertificates:\n- pem: |\n{root}  certSigners:\n  - clusterissuers.cert-manager.io/foo\n");
    let mesh = Mesh::new(
        MeshConfig::parse(&mesh).unwrap(),
        ProxyConfigs::new(Vec::new()),
        "istio-system",
    );
    let policy = Policy::compose(Sources {
        file: None,
        istio: Some(Istio {
            mesh: &Arc::new(mesh),
            settings: &istio.settings,
        }),
        trust_domain: None,
    });
    policy.unwrap()
}

#[test]
fn each_variable_is_ours_or_not_read_as_the_page_says() {
    for (variable, (_, here)) in table() {
        let flag = flag(variable);
        match here {
            "same" | "changed" => assert!(flag.is_some(), "{variable} is none of ours"),
            "not read" => assert_eq!(flag, None, "{variable} is read"),
            other => panic!("{variable}: {other:?} says nothing"),
        }
    }
    for variable in [
        "EXTERNAL_CA",
        "CERT_SIGNER_DOMAIN",
        "K8S_SIGNER",
        "PILOT_CERT_PROVIDER",
        "DEFAULT_WORKLOAD_CERT_TTL",
        "MAX_WORKLOAD_CERT_TTL",
        "CA_TRUSTED_NODE_ACCOUNTS",
        "TOKEN_AUDIENCES",
    ] {
        assert!(table().contains_key(variable), "the page lacks {variable}");
    }
}

#[test]
fn istiods_defaults_said_aloud_change_nothing() {
    let (domain, root) = ("--cert-signer-domain=clusterissuers.cert-manager.io", root());
    for (variable, (default, here)) in table() {
        if here == "not read" {
            continue;
        }
        let said = format!("--{}={default}", flag(variable).unwrap());
        let least = ["--mesh-config-map=istio"];
        let plain = read_istio(&least).unwrap();
        let mut with = read_istio(&[&least[..], &[&said]].concat()).unwrap();
        // Lifetimes are compared where they count: an unset one is the policy's.
        if let (Some(with), Some(plain)) = (&mut with.istio, &plain.istio) {
            with.settings.default_ttl = plain.settings.default_ttl;
            with.settings.max_ttl = plain.settings.max_ttl;
        }
        assert_eq!(format!("{with:?}"), format!("{plain:?}"), "{said}");
        if variable != "CERT_SIGNER_DOMAIN" {
            assert_eq!(policy(&root, &[domain, &said]), policy(&root, &[domain]), "{said}");
        }
    }
}

#[test]
fn more_than_the_longest_lifetime_is_cut() {
    let max = "--max-workload-cert-ttl=2h";
    let policy = policy(
        &root(),
        &[
            "--cert-signer-domain=clusterissuers.cert-manager.io",
            "--signer-choice=any-mesh-signer",
            max,
        ],
    );
    let grant = policy.grant(crate::policy::Wish {
        namespace: "foo",
        service_account: "sleep",
        signer: Some(&"foo".parse().unwrap()),
        key_type: ensign_pki::KeyType::P256,
        ttl_seconds: 24 * 3600,
    });
    assert_eq!(grant.unwrap().ttl, Duration::from_hours(2));
}
