//! The page that documents the policy says what is so.

use super::*;

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

#[test]
fn every_example_of_the_page_is_a_policy() {
    let page = include_str!("../../../../docs/policy.md");
    // An example that is only a part stands for the whole file with that part replaced.
    let examples: Vec<String> = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| {
            let example = rest.split("```").next().unwrap().trim_end();
            let indent = example.len() - example.trim_start().len();
            example
                .lines()
                .map(|line| format!("{}\n", line.get(indent..).unwrap_or_default()))
                .collect()
        })
        .collect();
    assert_eq!(examples.len(), 6);
    let whole = sections(&examples[0]);
    for example in &examples {
        let mut all = whole.clone();
        all.extend(sections(example));
        let text: String = all.into_values().collect();
        Policy::parse(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    }
}

#[test]
fn the_lifetimes_of_the_page_are_those_granted() {
    let page = include_str!("../../../../docs/policy.md");
    assert!(page.contains("ttl: {default: 12h, min: 30m, max: 48h}") && page.contains("# default of foo: 1h"));
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
