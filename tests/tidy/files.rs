//! Each file for itself: it says what it owns, is short enough to read, leaves nothing to do, and names no registry.

use crate::tree::{File, file, found, is, none, report, rust, sources};

/// Lines of a file without its tests, at most.
const LONGEST: usize = 500;

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
fn no_file_names_a_host_of_a_registry() {
    report(&registry_hosts(&sources()));
}

#[test]
fn each_rule_for_a_file_can_fail_and_pass() {
    found(&files_without_doc(&file("a.rs", "use x;\n//! late\n")));
    none(&files_without_doc(&file("a.rs", "//! What it owns.\n")));
    found(&too_long(&file("a.rs", &"x\n".repeat(LONGEST + 1))));
    let tests = "x\n".repeat(LONGEST);
    none(&too_long(&file(
        "a.rs",
        &format!("x\n#[cfg(test)]\nmod tests {{\n{tests}}}\n"),
    )));
    found(&leftovers(&file(
        "a.rs",
        &format!("// {}: later\n", ["TO", "DO"].concat()),
    )));
    let host = ["index = \"https://py", "pi.org/simple\""].concat();
    found(&registry_hosts(&file("a.toml", &host)));
}

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
