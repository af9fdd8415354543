//! The one mistake that everybody makes in a mesh configuration: a certificate that is not indented below `pem: |`.
//!
//! In a YAML block scalar each line must be indented deeper than its key. Istio's own page on custom CAs shows the
//! certificate in the column of the key, and a shell variable indents the first line at most. A parser then complains
//! about what it takes the certificate for; this says what was meant.

/// A line of a certificate that is not indented as its block needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unindented {
    /// The line, from 1.
    pub(super) line: usize,
    /// The least number of spaces that the block needs.
    pub(super) needed: usize,
    /// The line of `pem: |`.
    pub(super) key_line: usize,
}

/// The first line of a certificate below a `pem: |` that is not indented deeper than the key.
pub(super) fn unindented(text: &str) -> Option<Unindented> {
    let mut lines = text.lines().zip(1..).peekable();
    while let Some((line, key_line)) = lines.next() {
        let Some(column) = block_key(line) else { continue };
        let mut inside = false;
        while let Some((content, number)) = lines.peek().copied() {
            let words = content.trim();
            let shallow = indent(content) <= column && !words.is_empty();
            if shallow && (inside || words.starts_with(BEGIN)) {
                return Some(Unindented {
                    line: number,
                    needed: column + 1,
                    key_line,
                });
            }
            // What is as shallow as the key and no certificate ends the block, as it should.
            if shallow {
                break;
            }
            inside = if words.starts_with(BEGIN) {
                true
            } else if words.starts_with(END) {
                false
            } else {
                inside
            };
            lines.next();
        }
    }
    None
}

/// The column of `pem` in a line that begins a block scalar with it.
fn block_key(line: &str) -> Option<usize> {
    let key = line.trim_start_matches([' ', '-']);
    let value = key.strip_prefix("pem:")?.trim_start();
    value.starts_with(['|', '>']).then_some(line.len() - key.len())
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("- pem: |\n  -----BEGIN X-----\n", Some((2, 3)); "in the column of the key")]
    #[test_case("- pem: |\n    -----BEGIN X-----\nAAAA\n", Some((3, 3)); "only the first line is indented")]
    #[test_case("- pem: |\n\n-----BEGIN X-----\n", Some((3, 3)); "not indented at all")]
    #[test_case("a:\n  pem: |-\n  -----BEGIN X-----\n", Some((3, 3)); "no list")]
    #[test_case("- pem: |\n    -----BEGIN X-----\n    AAAA\n    -----END X-----\n  certSigners: []\n", None; "as it should be")]
    #[test_case("- pem: |\n    A\n- pem: |\n  -----BEGIN X-----\n", Some((4, 3)); "the second entry")]
    #[test_case("- pem: |\n    -----BEGIN X-----\n    -----END X-----\n    -----BEGIN X-----\n  AAAA\n", Some((5, 3)); "the second certificate")]
    #[test_case("- pem: \"-----BEGIN X-----\"\n", None; "no block")]
    #[test_case("- pem: |\n  certSigners: []\n", None; "empty")]
    #[test_case("", None; "nothing")]
    fn finds_the_line(text: &str, expected: Option<(usize, usize)>) {
        assert_eq!(unindented(text).map(|found| (found.line, found.needed)), expected);
    }
}
