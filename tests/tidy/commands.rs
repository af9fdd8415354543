//! Commands that documents give exist, and continuous integration runs those of the README.

use std::collections::BTreeSet;

use crate::tree::{File, content, file, found, is, none, report, sources};

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
fn each_rule_of_commands_can_fail_and_pass() {
    let page = file("README.md", "make demo\nmake coffee\n");
    found(&unknown_commands(&page, "demo: x\n"));
    none(&unknown_commands(&page, "demo: x\ncoffee: y\n"));
    found(&ci_differs("#!/bin/sh\nmake lint\n"));
    none(&ci_differs("#!/bin/sh\nmake test\nmake lint\n"));
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
