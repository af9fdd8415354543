//! Every value is in values.yaml with a comment, in values.schema.json, and in docs/chart.md.

use std::collections::BTreeSet;

use ensign_testbed::helm;
use serde_json::Value;

use super::Result;

const VALUES: &str = include_str!("../../../deploy/chart/values.yaml");
const SCHEMA: &str = include_str!("../../../deploy/chart/values.schema.json");
const PAGE: &str = include_str!("../../../docs/chart.md");

#[test]
fn every_value_has_a_comment_and_a_schema_and_a_row() -> Result {
    let defaults = helm::yaml(VALUES)?;
    let said = comments(VALUES);
    let mut rows = String::from("| value | default | meaning |\n|---|---|---|\n");
    let mut paths = BTreeSet::new();
    each_leaf(&serde_json::from_str(SCHEMA)?, "", &mut |path| {
        paths.insert(path.to_owned());
    });
    let missing: Vec<_> = paths
        .iter()
        .filter(|path| !said.iter().any(|(known, _)| known == *path))
        .collect();
    assert!(missing.is_empty(), "without a comment in values.yaml: {missing:?}");
    for (path, meaning) in &said {
        assert!(
            paths.contains(path),
            "{path} is in values.yaml and not a leaf of the schema"
        );
        let default = default_of(&defaults, path);
        rows.push_str(&format!("| `{path}` | {default} | {} |\n", meaning.replace('|', "\\|")));
    }
    assert!(
        PAGE.contains(&rows),
        "the table of docs/chart.md is not that of values.yaml; it should be:\n{rows}"
    );
    Ok(())
}

/// Free maps and lists are values of their own; what names its properties and takes no others is a group.
fn each_leaf(schema: &Value, path: &str, found: &mut impl FnMut(&str)) {
    let group = schema["properties"].as_object().filter(|_| !LEAVES.contains(&path));
    let Some(properties) = group else {
        return found(path);
    };
    for (name, schema) in properties {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        each_leaf(schema, &path, found);
    }
}

/// Kubernetes' own types, which the schema spells out.
const LEAVES: [&str; 4] = [
    "resources",
    "agent.resources",
    "agent.updateStrategy",
    "agent.seLinuxOptions",
];

/// Path and comment of each key that has a comment, in order.
fn comments(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut stack, mut comment) = (Vec::<(usize, String)>::new(), Vec::new());
    for line in text.lines() {
        let content = line.trim_start();
        let depth = line.len() - content.len();
        if let Some(words) = content.strip_prefix("# ") {
            comment.push(words.to_owned());
            continue;
        }
        if let Some((key, _)) = content.split_once(':').filter(|_| !content.starts_with('-')) {
            stack.retain(|(other, _)| *other < depth);
            stack.push((depth, key.to_owned()));
            if !comment.is_empty() {
                let path: Vec<_> = stack.iter().map(|(_, key)| key.as_str()).collect();
                found.push((path.join("."), comment.join(" ")));
            }
        }
        comment.clear();
    }
    // Groups have comments too; they are no values.
    found.retain(|(path, _)| !GROUPS.contains(&path.as_str()));
    found
}

/// Groups whose own line has a comment.
const GROUPS: [&str; 1] = ["global"];

fn default_of(defaults: &Value, path: &str) -> String {
    let value = path.split('.').fold(defaults, |value, key| &value[key]);
    match value {
        Value::String(text) if text.is_empty() => String::new(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}
