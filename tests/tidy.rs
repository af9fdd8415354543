//! Ring `tidy`: rules about the sources themselves that no compiler checks.
//!
//! Each rule is a function from named texts to findings, so that its own test can plant a violation and see it found.
//! The rules run over the files that git would commit; what they enforce is written in CONTRIBUTING.md and ARCHITECTURE.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Path from the root, and content.
type File = (String, String);

/// Lines of a file without its tests, at most.
const LONGEST: usize = 500;

/// Folders of the root that hold no sources of ours.
const IGNORED: [&str; 4] = [".git", ".tools", "target", "node_modules"];

/// Which module of the agent may use which.
const AGENT_ARROWS: [(&str, &[&str]); 7] = [
    ("app", &["admin", "source", "sds", "rotation", "csr_client"]),
    ("admin", &["rotation", "csr_client"]),
    ("source", &["rotation", "csr_client", "unix_socket"]),
    ("sds", &["rotation", "csr_client", "unix_socket"]),
    ("rotation", &["csr_client"]),
    ("csr_client", &[]),
    ("unix_socket", &[]),
];

/// Which crate may have which of ours as a normal dependency.
const CRATE_ARROWS: [(&str, &[&str]); 8] = [
    ("Cargo.toml", &["daemon", "pki", "proto"]),
    ("ra/Cargo.toml", &["daemon", "pki", "proto"]),
    ("daemon/Cargo.toml", &[]),
    ("pki/Cargo.toml", &[]),
    ("proto/Cargo.toml", &[]),
    ("testkit/Cargo.toml", &["pki", "proto"]),
    ("testbed/Cargo.toml", &["testkit"]),
    ("benches/Cargo.toml", &["testbed", "testkit", "ra", "pki", "proto"]),
];

#[test]
fn every_file_says_what_it_owns() {
    report(&files_without_doc(&rust(sources())));
}

#[test]
fn no_file_is_too_long() {
    report(&too_long(&rust(sources())));
}

#[test]
fn nothing_is_left_to_do() {
    report(&leftovers(&sources()));
}

#[test]
fn modules_of_the_agent_follow_the_arrow() {
    report(&against_the_arrow(&rust(sources())));
}

#[test]
fn crates_follow_the_arrow() {
    report(&crates_against_the_arrow(&sources()));
}

#[test]
fn every_invariant_names_an_existing_test() {
    let sources = sources();
    let architecture = content(&sources, "ARCHITECTURE.md");
    report(&invariants_without_test(
        architecture,
        &test_names(&rust(sources.clone())),
    ));
}

#[test]
fn every_documented_command_exists() {
    let sources = sources();
    report(&unknown_commands(&sources, content(&sources, "Makefile")));
}

#[test]
fn ci_runs_the_readme_commands() {
    let sources = sources();
    report(&ci_differs(content(&sources, ".ci/run")));
}

#[test]
fn no_file_names_a_host_of_a_registry() {
    report(&registry_hosts(&sources()));
}

#[test]
fn every_rule_can_fail() {
    let file = |path: &str, text: &str| vec![(path.to_owned(), text.to_owned())];
    let found = |findings: Vec<String>| assert_eq!(findings.len(), 1, "{findings:?}");

    found(files_without_doc(&file("a.rs", "use x;\n//! late\n")));
    found(too_long(&file("a.rs", &"x\n".repeat(LONGEST + 1))));
    found(leftovers(&file(
        "a.rs",
        &format!("// {}: later\n", ["TO", "DO"].concat()),
    )));
    found(against_the_arrow(&file(
        "src/rotation/schedule.rs",
        "use crate::sds::Stream;\n",
    )));
    found(against_the_arrow(&file(
        "src/sds/mod.rs",
        "use crate::{\n    admin::Status,\n    rotation::Handle,\n};\n",
    )));
    found(crates_against_the_arrow(&file(
        "pki/Cargo.toml",
        "[dependencies]\nensign-daemon.workspace = true\n",
    )));
    let known = BTreeSet::from(["known".to_owned()]);
    found(invariants_without_test(&invariant_table("`unknown`"), &known));
    found(invariants_without_test(&invariant_table(""), &known));
    found(unknown_commands(
        &file("README.md", "make demo\nmake coffee\n"),
        "demo: x\n",
    ));
    found(ci_differs("#!/bin/sh\nmake lint\n"));
    found(registry_hosts(&file(
        "a.toml",
        &["index = \"https://py", "pi.org/simple\""].concat(),
    )));
}

#[test]
fn every_rule_can_pass() {
    let file = |path: &str, text: &str| vec![(path.to_owned(), text.to_owned())];
    let none = |findings: Vec<String>| assert_eq!(findings, Vec::<String>::new());

    none(files_without_doc(&file("a.rs", "//! What it owns.\n")));
    none(too_long(&file(
        "a.rs",
        &format!("x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "x\n".repeat(LONGEST)),
    )));
    none(against_the_arrow(&file(
        "src/sds/mod.rs",
        "use crate::rotation::Handle;\n// like crate::admin does\n",
    )));
    none(crates_against_the_arrow(&file(
        "pki/Cargo.toml",
        "[dev-dependencies]\nensign-testkit.workspace = true\n",
    )));
    none(invariants_without_test(
        &invariant_table("`module::known`"),
        &BTreeSet::from(["known".to_owned()]),
    ));
    none(invariants_without_test(&invariant_table("later"), &BTreeSet::new()));
    none(ci_differs("#!/bin/sh\nmake test\nmake lint\n"));
}

// === rules ===

fn files_without_doc(files: &[File]) -> Vec<String> {
    let without = files.iter().filter(|(_, text)| !text.starts_with("//! "));
    without
        .map(|(path, _)| format!("{path}: does not open with `//! ` (what it owns, promises, leaves to others)"))
        .collect()
}

fn too_long(files: &[File]) -> Vec<String> {
    let length = |path: &str, text: &str| {
        if path.ends_with("/tests.rs") || path.starts_with("tests/") || path.contains("/tests/") {
            return 0;
        }
        text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count()
    };
    let long = files
        .iter()
        .map(|(path, text)| (path, length(path, text)))
        .filter(|(_, length)| *length > LONGEST);
    long.map(|(path, length)| format!("{path}: {length} lines without tests, more than {LONGEST}"))
        .collect()
}

fn leftovers(files: &[File]) -> Vec<String> {
    // In halves, so that this file does not find itself.
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["X", "XX"],
        ["unimplemented", "!("],
        ["to", "do!("],
    ]
    .map(|halves| halves.concat());
    let relevant = files
        .iter()
        .filter(|(path, _)| is(path, &["rs", "proto", "sh", "yaml", "yml"]) || path == "Makefile");
    relevant
        .flat_map(|(path, text)| {
            let lines = text.lines().enumerate();
            let hits = lines.filter(|(_, line)| words.iter().any(|word| line.contains(word.as_str())));
            hits.map(|(number, line)| format!("{path}:{}: left over: {}", number + 1, line.trim()))
                .collect::<Vec<_>>()
        })
        .collect()
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

fn identifier(text: &str) -> String {
    text.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn crates_against_the_arrow(files: &[File]) -> Vec<String> {
    let arrows = BTreeMap::from(CRATE_ARROWS);
    let mut findings = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
        let Some(allowed) = arrows.get(path.as_str()) else {
            findings.push(format!("{path}: this crate has no arrow in tests/tidy.rs"));
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
            if !known.contains(test.rsplit("::").next().unwrap_or(test)) {
                findings.push(format!(
                    "ARCHITECTURE.md: {id} names the test `{test}`, which does not exist"
                ));
            }
        }
    }
    findings
}

/// Names of functions under a test attribute.
fn test_names(files: &[File]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, text) in files {
        let mut below_attribute = false;
        for line in text.lines().map(str::trim) {
            let attribute = line.starts_with("#[");
            below_attribute |=
                attribute && (line.contains("test]") || line.contains("test(") || line.contains("test_case"));
            let Some((before, after)) = line.split_once("fn ") else {
                continue;
            };
            if before.is_empty() || before.ends_with(' ') {
                if below_attribute {
                    names.insert(identifier(after));
                }
                below_attribute = false;
            }
        }
    }
    names
}

fn unknown_commands(files: &[File], makefile: &str) -> Vec<String> {
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(target, _)| target)
        .collect();
    let mut findings = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| is(path, &["md"])) {
        for line in text.lines() {
            // A command stands at the start of a line of a code block, or in back ticks.
            let quoted = line.split('`').skip(1).step_by(2);
            for command in quoted
                .chain([line.trim()])
                .filter_map(|text| text.strip_prefix("make "))
            {
                // The first word only: more than one target on a line is rare, and prose would be read as targets.
                let target = command.split_whitespace().next().unwrap_or_default();
                if target.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !targets.contains(target) {
                    findings.push(format!("{path}: `make {target}` does not exist"));
                }
            }
        }
    }
    findings
}

fn ci_differs(script: &str) -> Vec<String> {
    let commands: Vec<&str> = script.lines().filter(|line| line.starts_with("make ")).collect();
    let wanted = ["make test", "make lint"];
    if commands == wanted {
        Vec::new()
    } else {
        vec![format!(".ci/run: runs {commands:?} instead of {wanted:?}")]
    }
}

fn registry_hosts(files: &[File]) -> Vec<String> {
    let hosts = [
        ["py", "pi.org"],
        ["pythonhosted", ".org"],
        ["static.crates", ".io"],
        ["index.crates", ".io"],
        ["npmjs", ".org"],
        ["proxy.gol", "ang.org"],
    ];
    // Cargo writes the default registry's name into the lock file; that is its format, not our choice.
    let relevant = files.iter().filter(|(path, _)| path != "Cargo.lock");
    relevant
        .flat_map(|(path, text)| {
            let named = hosts
                .iter()
                .map(|halves| halves.concat())
                .filter(|host| text.contains(host.as_str()));
            named
                .map(|host| format!("{path}: names the registry host {host}"))
                .collect::<Vec<_>>()
        })
        .collect()
}

// === the tree ===

fn sources() -> Vec<File> {
    let mut found = Vec::new();
    collect(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut found);
    assert!(found.len() > 20, "only {} files found: the walk is broken", found.len());
    found
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<File>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().unwrap();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !(prefix.is_empty() && (IGNORED.contains(&name.as_str()) || name.starts_with("target-"))) {
            collect(&entry.path(), &format!("{path}/"), found);
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            found.push((path, text));
        }
    }
}

fn rust(files: Vec<File>) -> Vec<File> {
    files.into_iter().filter(|(path, _)| is(path, &["rs"])).collect()
}

fn is(path: &str, extensions: &[&str]) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|found| extensions.iter().any(|wanted| found == *wanted))
}

fn content<'a>(files: &'a [File], wanted: &str) -> &'a str {
    files
        .iter()
        .find(|(path, _)| path == wanted)
        .map(|(_, text)| text.as_str())
        .unwrap()
}

fn invariant_table(tests_of_the_first: &str) -> String {
    let rest: Vec<String> = (2..=10).map(|number| format!("| I{number} | text | later |")).collect();
    format!("| I1 | text | {tests_of_the_first} |\n{}\n", rest.join("\n"))
}

fn report(findings: &[String]) {
    assert!(
        findings.is_empty(),
        "{} findings:\n{}",
        findings.len(),
        findings.join("\n")
    );
}
