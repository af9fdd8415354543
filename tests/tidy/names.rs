//! The full names of our tests, from the sources: crate or ring, modules, function.
//!
//! As a person would write them: `ensign_ra::authz::tests::who_may_not_ask_for_others`, `ring_ra::steps::one_text_per_code`.

use std::collections::BTreeSet;

use crate::tree::{File, identifier};

#[test]
fn names_follow_files_and_modules() {
    let name = |path: &str, text: &str| {
        let file = (path.to_owned(), text.to_owned());
        test_names(&[file]).into_iter().collect::<Vec<_>>()
    };
    let bare = "#[test]\nfn it_is() {}\n";
    assert_eq!(
        name("src/sds/stream/tests.rs", bare),
        ["ensign_agent::sds::stream::tests::it_is"]
    );
    assert_eq!(
        name("ra/src/policy/tests/mod.rs", bare),
        ["ensign_ra::policy::tests::it_is"]
    );
    assert_eq!(name("pki/src/lib.rs", bare), ["ensign_pki::it_is"]);
    assert_eq!(name("ra/tests/ring_ra/steps.rs", bare), ["ring_ra::steps::it_is"]);
    assert_eq!(
        name("tests/ring_kubernetes/bed/mod.rs", bare),
        ["ring_kubernetes::bed::it_is"]
    );
    assert_eq!(name("proto/tests/wire.rs", bare), ["wire::it_is"]);
    let inline = "fn no() {}\n#[cfg(test)]\nmod tests {\n    #[test_case(1; \"one\")]\n    #[tokio::test]\n    async fn it_is() {}\n\n    fn helper() {}\n}\n\n#[test]\nfn outside() {}\n";
    assert_eq!(
        name("ra/src/edge.rs", inline),
        ["ensign_ra::edge::outside", "ensign_ra::edge::tests::it_is"]
    );
    let shown = inline.replace("mod tests", "pub(super) mod tests");
    assert_eq!(name("ra/src/edge.rs", inline), name("ra/src/edge.rs", &shown));
}

/// Names of functions under a test attribute.
pub(crate) fn test_names(files: &[File]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (path, text) in files {
        let file = module_of(path);
        let mut inline = String::new();
        let mut below_attribute = false;
        for line in text.lines() {
            // What rustfmt leaves in the first column opens and ends a module of this file.
            let opens = line.ends_with('{') && !line.starts_with(' ');
            if let Some((visibility, module)) = line.split_once("mod ").filter(|_| opens)
                && (visibility.is_empty() || visibility.starts_with("pub"))
            {
                inline = format!("::{}", identifier(module));
            } else if line == "}" {
                inline.clear();
            }
            let line = line.trim();
            let attribute = line.starts_with("#[");
            below_attribute |=
                attribute && (line.contains("test]") || line.contains("test(") || line.contains("test_case"));
            let Some((before, after)) = line.split_once("fn ") else {
                continue;
            };
            if before.is_empty() || before.ends_with(' ') {
                if below_attribute {
                    names.insert(format!("{file}{inline}::{}", identifier(after)));
                }
                below_attribute = false;
            }
        }
    }
    names
}

/// The module that a file is.
fn module_of(path: &str) -> String {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let parts: Vec<&str> = path.split('/').collect();
    let (of, modules) = match parts.as_slice() {
        ["src", modules @ ..] => (Some("ensign_agent".to_owned()), modules),
        [folder, "src", modules @ ..] => (Some(format!("ensign_{folder}")), modules),
        ["tests", modules @ ..] | [_, "tests", modules @ ..] | modules => (None, modules),
    };
    let modules = modules
        .iter()
        .filter(|name| !["lib", "main", "mod"].contains(name))
        .map(|name| (*name).to_owned());
    of.into_iter().chain(modules).collect::<Vec<_>>().join("::")
}
