//! What people are told when something is wrong, and what only their commands may know.
//!
//! Every code of a finding and every reason of a refused volume stands in docs/troubleshoot.md.

use std::collections::BTreeSet;

use crate::tree::{File, content, file, found, none, report, rust, sources};

/// Where codes are the words of match arms.
const BY_ARMS: [&str; 2] = ["src/source/csi/refusal.rs", "operator/src/explain/failure.rs"];

/// What brings a Kubernetes client.
const CLIENTS: [&str; 3] = ["ensign_operator", "kube::", "k8s_openapi"];

#[test]
fn the_running_agent_has_no_kubernetes_client() {
    report(&kubernetes_in_the_agent(&rust(sources())));
}

#[test]
fn every_finding_and_refusal_is_in_the_troubleshooting_guide() {
    let sources = sources();
    let guide = content(&sources, "docs/troubleshoot.md").to_owned();
    let rust = rust(sources);
    let codes = codes(&rust);
    assert!(
        codes.len() > 60,
        "only {} codes found: the search is broken",
        codes.len()
    );
    report(&not_documented(&codes, &guide));
}

#[test]
fn each_rule_of_findings_can_fail_and_pass() {
    let client = "use ensign_operator::Access;\n";
    found(&kubernetes_in_the_agent(&file("src/app/mod.rs", client)));
    none(&kubernetes_in_the_agent(&file("src/cli/mod.rs", client)));

    let undocumented = |path: &str, text: &str| not_documented(&codes(&file(path, text)), "| `known` |");
    let call = "Finding::wrong(\n    \"new_code\",\n    cause,\n)";
    found(&undocumented("src/preflight/x.rs", call));
    found(&undocumented(BY_ARMS[0], "Self::Block => \"block\",\n"));
    none(&undocumented(BY_ARMS[0], "Self::Block => \"not a code\",\n"));
    none(&undocumented(
        "operator/src/x.rs",
        "Finding::ok(\"known\", Finding::note(code, cause, fix))",
    ));
}

/// Only the commands of people may have one.
fn kubernetes_in_the_agent(files: &[File]) -> Vec<String> {
    let running = |path: &str| path.starts_with("src/") && !path.starts_with("src/cli/");
    let mut findings = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| running(path)) {
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        for line in code.filter(|line| CLIENTS.iter().any(|client| line.contains(client))) {
            findings.push(format!(
                "{path}: the running agent knows no Kubernetes client: {}",
                line.trim()
            ));
        }
    }
    findings
}

/// Literal codes of findings, and words of match arms where those are codes.
fn codes(files: &[File]) -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for (path, text) in files.iter().filter(|(path, _)| !path.ends_with("tests.rs")) {
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        if path.starts_with("src/") || path.starts_with("operator/") {
            for kind in ["ok", "note", "unknown", "wrong"] {
                let call = format!("Finding::{kind}(");
                let calls = text.split(&call).skip(1);
                codes.extend(calls.filter_map(|rest| quoted(rest.trim_start())));
            }
        }
        if BY_ARMS.contains(&path.as_str()) {
            let words = text.split(" => ").skip(1).filter_map(quoted);
            codes.extend(words.filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
        }
    }
    codes
}

fn not_documented(codes: &BTreeSet<String>, guide: &str) -> Vec<String> {
    let missing = codes.iter().filter(|code| !guide.contains(&format!("`{code}`")));
    missing
        .map(|code| format!("docs/troubleshoot.md: `{code}` is not explained"))
        .collect()
}

/// What stands in quotes at the beginning of a text.
fn quoted(text: &str) -> Option<String> {
    let (inner, _) = text.strip_prefix('"')?.split_once('"')?;
    Some(inner.to_owned())
}
