//! The tables of upstream's cases and defects, of the failure stories and of the threat model: each row names tests that exist, or says why
//! there is none.
//!
//! A table has the case in its first cell and the answer in its last: names of tests in back ticks, or a dash and a reason.
//! Ids that must be answered are listed here, so that no row can get lost either.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::test_names;
use crate::tree::{content, found, none, report, rust, sources};

/// A letter, and how many there are of it, from one: istio-csr's cases, by the ids that we gave them.
const ISTIO_CSR: [(&str, usize); 12] = [
    ("I", 8),
    ("A", 13),
    ("P", 6),
    ("N", 10),
    ("S", 8),
    ("C", 6),
    ("E", 16),
    ("T", 3),
    ("R", 6),
    ("W", 11),
    ("M", 5),
    ("X", 15),
];
/// The same for istiod.
const ISTIOD: [(&str, usize); 1] = [("U", 91)];
/// The same for the defects of both.
const DEFECTS: [(&str, usize); 2] = [("D", 17), ("B", 26)];
/// The same for the failure stories.
const STORIES: [(&str, usize); 1] = [("F", 36)];

/// The same for what each party can do in other hands: pod, agent, node, token, RA, operator.
const THREATS: [(&str, usize); 6] = [("P", 11), ("A", 9), ("N", 4), ("T", 5), ("R", 7), ("O", 10)];

#[test]
fn every_case_of_upstream_has_a_test_or_a_reason() {
    check("tests/upstream.md", &[&ISTIOD[..], &ISTIO_CSR[..]].concat());
}

#[test]
fn every_defect_of_upstream_has_a_test_or_a_reason() {
    check("tests/defects.md", &DEFECTS);
}

#[test]
fn every_failure_story_has_a_test_or_a_place() {
    check("tests/stories.md", &STORIES);
}

#[test]
fn every_threat_has_a_test_or_a_reason() {
    check("docs/security.md", &THREATS);
}

fn check(page: &str, ids: &[(&str, usize)]) {
    let sources = sources();
    let known = test_names(&rust(sources.clone()));
    report(&unanswered(page, content(&sources, page), ids, &known));
}

#[test]
fn the_rule_of_tables_can_fail_and_pass() {
    let known = BTreeSet::from(["ring_ra::steps::known".to_owned()]);
    let judge = |rows: &str| {
        unanswered(
            "page.md",
            &format!("| id | case | test |\n|---|---|---|\n{rows}"),
            &[("F", 2)],
            &known,
        )
    };
    let right = "| F1 | a | `ring_ra::steps::known` |\n| F2 | b | — not offered here |\n";
    none(&judge(right));
    none(&judge(
        "| F1–F2 | a and b | `ring_ra::steps::known`, with `--flag=a::b c` |\n",
    ));
    found(&judge(&right.replace("known", "unknown")));
    let moved = judge(&right.replace("steps", "elsewhere"));
    assert!(moved[0].ends_with("; there is ring_ra::steps::known"), "{moved:?}");
    found(&judge(&right.replace("ring_ra::steps::", "")));
    found(&judge(&right.replace("not offered here", "")));
    found(&judge(&right.replace("— ", "")));
    found(&judge(&right.replace("| F2 | b | — not offered here |\n", "")));
    found(&judge(&format!("{right}| F2 | c | — the same id again |\n")));
    found(&judge(&format!("{right}| F3 | c | — nobody knows this id |\n")));
}

/// Rows without an answer, tests that do not exist, ids that are missing or there twice.
fn unanswered(page: &str, text: &str, ids: &[(&str, usize)], known: &BTreeSet<String>) -> Vec<String> {
    let mut findings = Vec::new();
    let mut left: BTreeMap<String, usize> = ids
        .iter()
        .flat_map(|(letter, count)| (1..=*count).map(move |number| (id(letter, number), 0)))
        .collect();
    let rows = text.lines().filter(|line| line.starts_with('|'));
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let (Some(first), Some(last)) = (cells.first(), cells.last()) else {
            continue;
        };
        if *first == "id" || first.starts_with("---") {
            continue;
        }
        for id in ids_in(first) {
            match left.get_mut(&id) {
                Some(seen) => *seen += 1,
                None => findings.push(format!("{page}: {id} is no id of this table")),
            }
        }
        let quoted = last.split('`').skip(1).step_by(2);
        let names: Vec<&str> = quoted.filter(|name| is_name(name)).collect();
        let reason = last.strip_prefix('—').map(str::trim);
        if names.is_empty() && reason.is_none_or(|reason| reason.split(' ').count() < 3) {
            findings.push(format!("{page}: {first} names no test and gives no reason"));
        }
        for name in names.into_iter().filter(|name| !known.contains(*name)) {
            let moved = namesakes(name, known);
            findings.push(format!(
                "{page}: {first} names the test `{name}`, which does not exist{moved}"
            ));
        }
    }
    for (id, seen) in left.into_iter().filter(|(_, seen)| *seen != 1) {
        findings.push(format!("{page}: {id} is there {seen} times, expected once"));
    }
    findings
}

/// Where a test of that function is now, for who moved it.
fn namesakes(name: &str, known: &BTreeSet<String>) -> String {
    let function = |name: &str| name.rsplit("::").next().unwrap_or_default().to_owned();
    let there: Vec<&str> = known
        .iter()
        .map(String::as_str)
        .filter(|other| function(other) == function(name))
        .collect();
    if there.is_empty() {
        String::new()
    } else {
        format!("; there is {}", there.join(", "))
    }
}

/// Whether a quoted text is the name of a test, and nothing else of Rust or of a shell.
fn is_name(text: &str) -> bool {
    text.contains("::") && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// `A1`, `A1, A3` and `A1–A3`.
fn ids_in(cell: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for part in cell.split(", ") {
        let (from, to) = part.split_once('–').unwrap_or((part, part));
        let letter = from.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = |text: &str| text.trim_start_matches(letter).parse::<usize>();
        match (number(from), number(to)) {
            (Ok(from), Ok(to)) if !letter.is_empty() => ids.extend((from..=to).map(|number| id(letter, number))),
            _ => ids.push(part.to_owned()),
        }
    }
    ids
}

fn id(letter: &str, number: usize) -> String {
    format!("{letter}{number}")
}
