//! Each invariant of ARCHITECTURE.md names tests that exist.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::test_names;
use crate::tree::{content, found, none, report, rust, sources};

#[test]
fn every_invariant_names_an_existing_test() {
    let sources = sources();
    let architecture = content(&sources, "ARCHITECTURE.md");
    let names = test_names(&rust(sources.clone()));
    let known = names.iter().map(|name| last(name).to_owned()).collect();
    report(&invariants_without_test(architecture, &known));
}

#[test]
fn the_rule_of_invariants_can_fail_and_pass() {
    let known = BTreeSet::from(["known".to_owned()]);
    found(&invariants_without_test(&table("`unknown`"), &known));
    found(&invariants_without_test(&table(""), &known));
    none(&invariants_without_test(&table("`module::known`"), &known));
    none(&invariants_without_test(&table("later"), &BTreeSet::new()));
}

fn table(tests_of_the_first: &str) -> String {
    let rest: Vec<String> = (2..=10).map(|number| format!("| I{number} | text | later |")).collect();
    format!("| I1 | text | {tests_of_the_first} |\n{}\n", rest.join("\n"))
}

fn invariants_without_test(architecture: &str, known: &BTreeSet<String>) -> Vec<String> {
    let rows: BTreeMap<&str, &str> = architecture
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let (id, tests) = (*cells.first()?, *cells.last()?);
            (id.starts_with('I') && id[1..].parse::<u8>().is_ok()).then_some((id, tests))
        })
        .collect();
    let mut findings = Vec::new();
    for number in 1..=10 {
        let id = format!("I{number}");
        let Some(tests) = rows.get(id.as_str()) else {
            findings.push(format!("ARCHITECTURE.md: {id} is missing"));
            continue;
        };
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !tests.contains("later") {
            findings.push(format!(
                "ARCHITECTURE.md: {id} names no test and is not marked as later"
            ));
        }
        for test in named {
            if !known.contains(last(test)) {
                findings.push(format!(
                    "ARCHITECTURE.md: {id} names the test `{test}`, which does not exist"
                ));
            }
        }
    }
    findings
}

/// The function's own name.
fn last(name: &str) -> &str {
    name.rsplit("::").next().unwrap_or(name)
}
