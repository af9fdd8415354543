//! The page that documents the policy says what is so.

use std::sync::Arc;

use ensign_testkit::TestCa;

use super::*;
use crate::mesh::{Mesh, MeshConfig, ProxyConfig, ProxyConfigs};

/// The sections of a policy by their keys; a section begins in the first column.
fn sections(yaml: &str) -> std::collections::BTreeMap<&str, String> {
    let mut sections = std::collections::BTreeMap::<&str, String>::new();
    let mut key = "";
    for line in yaml.lines() {
        if line.starts_with(|first: char| first.is_ascii_alphabetic()) {
            key = line.split_once(':').unwrap().0;
        }
        let section = sections.entry(key).or_default();
        section.push_str(line);
        section.push('\n');
    }
    sections
}

const PAGE: &str = include_str!("../../../../docs/policy.md");

/// The examples that begin with this fence, without the indentation of the list that they may stand in.
fn examples(fence: &str) -> Vec<String> {
    let begin = format!("```{fence}\n");
    PAGE.split(&begin)
        .skip(1)
        .map(|rest| {
            let example = rest.split("```").next().unwrap().trim_end();
            let indent = example.len() - example.trim_start().len();
            example
                .lines()
                .map(|line| format!("{}\n", line.get(indent..).unwrap_or_default()))
                .collect()
        })
        .collect()
}

#[test]
fn every_example_of_the_page_is_a_policy() {
    // An example that is only a part stands for the whole file with that part replaced.
    let examples = examples("yaml");
    assert_eq!(examples.len(), 8);
    let whole = sections(&examples[0]);
    for example in &examples {
        let mut all = whole.clone();
        all.extend(sections(example));
        let text: String = all.into_values().collect();
        Policy::parse(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    }
}

/// The mesh configuration of the page, with a certificate where it has dots.
fn mesh() -> Arc<Mesh> {
    let examples = examples("yaml mesh");
    let [text] = &examples[..] else {
        panic!("{} examples", examples.len());
    };
    let begin = "    -----BEGIN CERTIFICATE-----\n    …\n    -----END CERTIFICATE-----\n";
    assert!(text.contains(begin), "{text}");
    let pem: String = TestCa::new("root")
        .root_pem()
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    let config = MeshConfig::parse(&text.replace(begin, &pem)).unwrap();
    assert!(config.notices().is_empty());
    Arc::new(Mesh::new(
        config,
        ProxyConfigs::new(vec![proxy_config()]),
        "istio-system",
    ))
}

/// The ProxyConfig of the page.
fn proxy_config() -> ProxyConfig {
    let text = examples("yaml object")
        .into_iter()
        .find(|text| text.contains("ProxyConfig"))
        .unwrap();
    ProxyConfig::of(&serde_saphyr::from_str(&text).unwrap())
}

fn compose(mesh: &Arc<Mesh>, file: Option<&str>) -> Policy {
    let settings = IstioSettings {
        signer_domain: Some("clusterissuers.cert-manager.io".parse().unwrap()),
        ..IstioSettings::default()
    };
    Policy::compose(Sources {
        file,
        istio: Some(Istio {
            mesh,
            settings: &settings,
        }),
        trust_domain: None,
    })
    .unwrap()
}

#[test]
fn the_pages_mesh_configuration_and_proxy_config_do_as_it_says() {
    let mesh = mesh();
    let policy = compose(&mesh, None);
    let granted = |namespace: &str, signer: Option<&str>| {
        let signer: Option<SignerName> = signer.map(|name| name.parse().unwrap());
        let grant = policy.grant(wish(namespace, "sleep", signer.as_ref()));
        grant
            .map(|grant| grant.signer.to_string())
            .map_err(|denial| denial.reason())
    };
    assert_eq!(policy.trust_domain().as_str(), "cluster.local");
    assert_eq!(granted("foo", None), Ok("foo".to_owned()));
    assert_eq!(granted("foo", Some("foo")), Ok("foo".to_owned()));
    assert_eq!(granted("foo", Some("istio-system")), Err("signer_not_allowed"));
    assert_eq!(granted("bar", None), Ok("istio-system".to_owned()));
}

#[test]
fn the_pages_files_beside_a_mesh_do_as_it_says() {
    let mesh = mesh();
    let files = examples("yaml beside-mesh");
    assert_eq!(files.len(), 2);
    let moving = compose(&mesh, Some(&files[0]));
    let chosen = |policy: &Policy, namespace: &str| {
        let grant = policy.grant(wish(namespace, "sleep", None)).unwrap();
        (grant.signer.to_string(), grant.chosen_by)
    };
    assert_eq!(chosen(&moving, "foo"), ("foo".to_owned(), ChosenBy::ProxyConfig));
    assert_eq!(chosen(&moving, "bar"), ("istio-system".to_owned(), ChosenBy::Rule));
    let old: SignerName = "istio-system".parse().unwrap();
    assert!(
        moving.grant(wish("foo", "sleep", Some(&old))).is_ok(),
        "both for a while"
    );

    let closer = compose(&mesh, Some(&files[1]));
    let foo = closer.signers().find(|spec| spec.name.as_str() == "foo").unwrap();
    assert!(matches!(&foo.backend, Backend::KubernetesCsr(spec) if !spec.approve));
    let grant = closer.grant(Wish {
        ttl_seconds: i64::MAX,
        ..wish("foo", "sleep", None)
    });
    assert_eq!(grant.unwrap().ttl, Duration::from_hours(12));
}

#[test]
fn the_page_names_the_reason_of_each_denial() {
    let text = String::new;
    let signer: SignerName = "foo".parse().unwrap();
    let denials = [
        Denial::NoRule {
            namespace: text(),
            service_account: text(),
        },
        Denial::SignerNotAllowed {
            signer: signer.clone(),
            namespace: text(),
            service_account: text(),
            allowed: text(),
        },
        Denial::NoDefault {
            namespace: text(),
            service_account: text(),
            why: text(),
        },
        Denial::DefaultNotAllowed {
            signer: text(),
            place: text(),
            namespace: text(),
            service_account: text(),
            allowed: text(),
        },
        Denial::UnknownDefault {
            signer: text(),
            place: text(),
            namespace: text(),
        },
        Denial::NoRoots { signer, why: text() },
        Denial::KeyType(KeyType::P256),
    ];
    for denial in denials {
        let reason = denial.reason();
        assert!(PAGE.contains(&format!("`{reason}`")), "the page lacks {reason}");
    }
}

#[test]
fn the_lifetimes_of_the_page_are_those_granted() {
    assert!(PAGE.contains("ttl: {default: 12h, min: 30m, max: 48h}") && PAGE.contains("# default of foo: 1h"));
    let text = FILE
        .replace(
            "{default: 24h, min: 10m, max: 2160h}",
            "{default: 12h, min: 30m, max: 48h}",
        )
        .replace("selfSigned: true}\n", "selfSigned: true}\n  ttl: {default: 24h}\n");
    let policy = Policy::parse(&text).unwrap();
    let granted = |signer: &str, seconds| {
        let signer: SignerName = signer.parse().unwrap();
        let wish = Wish {
            ttl_seconds: seconds,
            ..wish("bar", "sleep", Some(&signer))
        };
        policy.grant(wish).unwrap().ttl
    };
    let minutes = |n: u64| Duration::from_secs(60 * n);
    assert_eq!(
        ["foo", "bar"].map(|signer| granted(signer, 0)),
        [minutes(60), minutes(24 * 60)]
    );
    assert_eq!(
        ["foo", "bar"].map(|signer| granted(signer, 1)),
        [minutes(30), minutes(30)]
    );
    assert_eq!(
        ["foo", "bar"].map(|signer| granted(signer, i64::MAX)),
        [minutes(60), minutes(48 * 60)]
    );
}
