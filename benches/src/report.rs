//! Tables, on the terminal and between the markers of `docs/performance.md`; prose outside the markers is kept.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;

/// One figure's table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// Heading.
    pub(crate) title: String,
    /// What was done, in a few sentences.
    pub(crate) text: String,
    /// Names of the columns.
    pub(crate) head: Vec<&'static str>,
    /// One cell for each column.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(title: &str, text: String, head: &[&'static str]) -> Self {
        Self {
            title: title.to_owned(),
            text,
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// As Markdown, with columns of even width, so that it reads well on a terminal too.
    pub(crate) fn markdown(&self) -> String {
        let head: Vec<String> = self.head.iter().map(|&name| name.to_owned()).collect();
        let width = |column: usize| {
            let cells = std::iter::once(&head).chain(&self.rows);
            let lengths = cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            lengths.max().unwrap_or_default().max(3)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            format!("| {} |\n", padded.join(" | "))
        };
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        let mut text = format!("### {}\n\n", self.title);
        if !self.text.is_empty() {
            let _ = writeln!(text, "{}\n", self.text);
        }
        text += &line(&head);
        text += &line(&rule);
        self.rows.iter().for_each(|row| text += &line(row));
        text
    }
}

/// Puts `generated` between the markers that name the command, and touches nothing else of the file.
pub(crate) fn write(path: &Path, command: &str, generated: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = replaced(&text, command, generated);
    let text = text.with_context(|| format!("{} has no markers of `{command}`", path.display()))?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(text: &str, command: &str, generated: &str) -> Option<String> {
    let begin = format!("<!-- figures: begin (made by `{command}`, do not edit) -->");
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}\n\n{}\n\n{END}{after}", generated.trim()))
}

const END: &str = "<!-- figures: end -->";

/// Whether a goal is met, for a cell.
pub(crate) fn verdict(goal: &str, met: bool) -> String {
    format!("{goal}: {}", if met { "met" } else { "**missed**" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_around_the_markers_is_kept() {
        let marked = |inside: &str| {
            format!("before\n<!-- figures: begin (made by `make x`, do not edit) -->\n{inside}\n{END}\nafter\n")
        };
        let new = replaced(&marked("old"), "make x", "new\n").unwrap();
        assert_eq!(new, marked("\nnew\n"));
        assert_eq!(replaced(&new, "make x", "new").unwrap(), new);
        assert_eq!(replaced("no markers", "make x", "new"), None);
    }

    #[test]
    fn each_command_writes_between_its_own_markers() {
        let part = |command: &str, inside: &str| {
            format!("<!-- figures: begin (made by `{command}`, do not edit) -->\n\n{inside}\n\n{END}\n")
        };
        let text = part("make x", "a") + &part("make x-y", "b");
        let x = replaced(&text, "make x", "c").unwrap();
        assert_eq!(x, part("make x", "c") + &part("make x-y", "b"));
        let y = replaced(&text, "make x-y", "c").unwrap();
        assert_eq!(y, part("make x", "a") + &part("make x-y", "c"));
    }

    #[test]
    fn tables_are_padded() {
        let mut table = Table::new("T", String::new(), &["a", "b"]);
        table.row(["1".to_owned(), "long".to_owned()]);
        assert_eq!(
            table.markdown(),
            "### T\n\n| a   | b    |\n| --- | ---- |\n| 1   | long |\n"
        );
    }
}
