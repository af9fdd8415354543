//! Who may use whom: modules of the agent, and our crates. ARCHITECTURE.md draws both.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{File, file, found, identifier, none, report, rust, sources};

/// Which module of the agent may use which.
const AGENT_ARROWS: [(&str, &[&str]); 9] = [
    ("cli", &["preflight", "source", "csr_client"]),
    ("preflight", &["source"]),
    ("app", &["admin", "source", "sds", "rotation", "csr_client"]),
    ("admin", &["rotation", "csr_client"]),
    ("source", &["rotation", "csr_client", "unix_socket"]),
    ("sds", &["rotation", "csr_client", "unix_socket"]),
    ("rotation", &["csr_client"]),
    ("csr_client", &[]),
    ("unix_socket", &[]),
];

/// Which crate may have which of ours as a normal dependency.
const CRATE_ARROWS: [(&str, &[&str]); 9] = [
    ("Cargo.toml", &["daemon", "operator", "pki", "proto"]),
    ("operator/Cargo.toml", &["daemon", "pki"]),
    ("ra/Cargo.toml", &["daemon", "pki", "proto"]),
    ("daemon/Cargo.toml", &[]),
    ("pki/Cargo.toml", &[]),
    ("proto/Cargo.toml", &[]),
    ("testkit/Cargo.toml", &["pki", "proto"]),
    ("testbed/Cargo.toml", &["testkit"]),
    ("benches/Cargo.toml", &["testbed", "testkit", "ra", "pki", "proto"]),
];

#[test]
fn modules_of_the_agent_follow_the_arrow() {
    report(&against_the_arrow(&rust(sources())));
}

#[test]
fn crates_follow_the_arrow() {
    report(&crates_against_the_arrow(&sources()));
}

#[test]
fn each_rule_of_arrows_can_fail_and_pass() {
    let back = "use crate::sds::Stream;\n";
    found(&against_the_arrow(&file("src/rotation/schedule.rs", back)));
    let group = "use crate::{\n    admin::Status,\n    rotation::Handle,\n};\n";
    found(&against_the_arrow(&file("src/sds/mod.rs", group)));
    let comment = "use crate::rotation::Handle;\n// like crate::admin does\n";
    none(&against_the_arrow(&file("src/sds/mod.rs", comment)));
    let normal = "[dependencies]\nensign-daemon.workspace = true\n";
    found(&crates_against_the_arrow(&file("pki/Cargo.toml", normal)));
    let for_tests = "[dev-dependencies]\nensign-testkit.workspace = true\n";
    none(&crates_against_the_arrow(&file("pki/Cargo.toml", for_tests)));
}

fn against_the_arrow(files: &[File]) -> Vec<String> {
    let arrows = BTreeMap::from(AGENT_ARROWS);
    let mut findings = Vec::new();
    for (path, text) in files {
        let Some(module) = path.strip_prefix("src/").and_then(|rest| rest.split(['/', '.']).next()) else {
            continue;
        };
        let Some(allowed) = arrows.get(module) else { continue };
        for used in used_modules(text) {
            if arrows.contains_key(used.as_str()) && used != module && !allowed.contains(&used.as_str()) {
                findings.push(format!("{path}: `{module}` may not use `{used}`"));
            }
        }
    }
    findings
}

/// First path segments after `crate::`, in single form and in braces; comments do not count.
fn used_modules(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            used.insert(identifier(rest));
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for character in group.chars() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    used.insert(identifier(&item));
                    item.clear();
                }
                _ if depth == 0 => item.push(character),
                _ => {}
            }
        }
        used.insert(identifier(&item));
    }
    used
}

fn crates_against_the_arrow(files: &[File]) -> Vec<String> {
    let arrows = BTreeMap::from(CRATE_ARROWS);
    let mut findings = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
        let Some(allowed) = arrows.get(path.as_str()) else {
            findings.push(format!("{path}: this crate has no arrow in tests/tidy/arrows.rs"));
            continue;
        };
        let normal = text
            .split("\n[")
            .filter(|table| table.trim_start_matches('[').starts_with("dependencies]"));
        for line in normal.flat_map(str::lines) {
            if let Some(used) = line.strip_prefix("ensign-").map(identifier)
                && !allowed.contains(&used.as_str())
            {
                findings.push(format!("{path}: may not depend on ensign-{used}"));
            }
        }
    }
    findings
}
