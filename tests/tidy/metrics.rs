//! docs/metrics.md: each series that a program registers has its row, and each row and each mention anywhere in docs/ its series.

use std::collections::BTreeSet;

use crate::tree::{File, content, found, none, report, rust, sources};

const PAGE: &str = "docs/metrics.md";

#[test]
fn every_series_is_documented_and_every_documented_one_is_there() {
    let sources = sources();
    let known = registered(&rust(sources.clone()));
    assert!(
        known.len() > 60,
        "only {} series found: the search is broken",
        known.len()
    );
    let pages: Vec<File> = sources
        .iter()
        .filter(|(path, _)| path.starts_with("docs/"))
        .cloned()
        .collect();
    report(&differences(&known, content(&sources, PAGE), &pages));
}

#[test]
fn the_rule_of_series_can_fail_and_pass() {
    let code = "registry.register(\n    \"ensign_agent_a\",\n    \"help\");\nown.register(\"b\", \"help\", b);";
    let known = registered(&[("src/metrics.rs".to_owned(), code.to_owned())]);
    let judge = |page: &str, other: &str| {
        let other = ("docs/other.md".to_owned(), other.to_owned());
        differences(&known, page, &[other])
    };
    let page = "| `ensign_agent_a` | gauge |\n| `ensign_ra_x_b_total` | counter |\n";
    none(&judge(page, "see `ensign_ra_x_b_total` and ensign_ra_x_b"));
    found(&judge("| `ensign_ra_x_b_total` | counter |\n", ""));
    found(&judge(&format!("{page}| `ensign_agent_gone` | gauge |\n"), ""));
    found(&judge(page, "see `ensign_agent_gone`"));
}

/// The names in the code: whole, or what follows the prefix of a registry.
fn registered(files: &[File]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (path, text) in files {
        if !["src/", "ra/src/", "daemon/src/"]
            .iter()
            .any(|ours| path.starts_with(ours))
            || path.contains("test")
        {
            continue;
        }
        let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        let after = text.split(".register(").skip(1).map(str::trim_start);
        names.extend(
            after
                .filter_map(|rest| rest.strip_prefix('"'))
                .filter_map(|rest| rest.split('"').next())
                .map(str::to_owned),
        );
        // What a collector works out has its whole name.
        if path.ends_with("metrics.rs") {
            let literals = text.split('"').skip(1).step_by(2);
            let whole = literals.filter(|name| {
                ["ensign_agent_", "istio_agent_"]
                    .iter()
                    .any(|ours| name.starts_with(ours))
            });
            names.extend(whole.map(str::to_owned));
        }
    }
    names
}

fn differences(known: &BTreeSet<String>, page: &str, pages: &[File]) -> Vec<String> {
    let rows: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(base)
        .collect();
    let same = |row: &str, name: &str| row == name || row.ends_with(&format!("_{name}"));
    let mut findings = Vec::new();
    for name in known {
        if !rows.iter().any(|row| same(row, name)) {
            findings.push(format!("{PAGE} has no row for {name}"));
        }
    }
    for row in &rows {
        if !known.iter().any(|name| same(row, name)) {
            findings.push(format!("{PAGE} has a row for {row}, which no program registers"));
        }
    }
    for (path, text) in pages {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let named = words.filter(|word| {
            ["ensign_agent_", "ensign_ra_"]
                .iter()
                .any(|ours| word.starts_with(ours))
        });
        let unknown: BTreeSet<_> = named.map(base).filter(|name| !rows.contains(name)).collect();
        findings.extend(
            unknown
                .iter()
                .map(|name| format!("{path} names {name}, which is not in {PAGE}")),
        );
    }
    findings
}

/// Without what the text format adds.
fn base(name: &str) -> &str {
    ["_total", "_bucket", "_count", "_sum"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix).filter(|_| name.starts_with("ensign_")))
        .unwrap_or(name)
}
