//! The sources as the rules see them: every file that git would commit, by its path from the root.

use std::fs;
use std::path::Path;

/// Path from the root, and content.
pub(crate) type File = (String, String);

/// Folders of the root that hold no sources of ours.
const IGNORED: [&str; 4] = [".git", ".tools", "target", "node_modules"];

/// All of them, sorted.
pub(crate) fn sources() -> Vec<File> {
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

/// Those in Rust.
pub(crate) fn rust(files: Vec<File>) -> Vec<File> {
    files.into_iter().filter(|(path, _)| is(path, &["rs"])).collect()
}

/// Whether the path has one of these extensions.
pub(crate) fn is(path: &str, extensions: &[&str]) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|found| extensions.iter().any(|wanted| found == *wanted))
}

/// What a file holds that must be there.
pub(crate) fn content<'a>(files: &'a [File], wanted: &str) -> &'a str {
    let found = files.iter().find(|(path, _)| path == wanted);
    found.map_or_else(|| panic!("{wanted} is not there"), |(_, text)| text.as_str())
}

/// A tree of one file, for the rules' own tests.
pub(crate) fn file(path: &str, text: &str) -> Vec<File> {
    vec![(path.to_owned(), text.to_owned())]
}

/// Fails with all findings of a rule.
pub(crate) fn report(findings: &[String]) {
    assert!(
        findings.is_empty(),
        "{} findings:\n{}",
        findings.len(),
        findings.join("\n")
    );
}

/// A planted violation is found, once.
pub(crate) fn found(findings: &[String]) {
    assert_eq!(findings.len(), 1, "{findings:?}");
}

/// What is right is no finding.
pub(crate) fn none(findings: &[String]) {
    assert_eq!(findings, [] as [String; 0]);
}

/// The identifier that a text begins with.
pub(crate) fn identifier(text: &str) -> String {
    text.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}
