//! What a check found: one code, whether it is well, and in words what is and what to do about it.
//!
//! The same form for checks of this machine and of a cluster, so that people and scripts read one thing. Codes are stable
//! and each stands in docs/troubleshoot.md. Causes quote what others wrote; what a terminal would act on is taken out here.

use std::fmt::Write as _;

use serde::Serialize;

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing; it may well be meant so, or heal by itself.
    Note,
    /// It could not be looked at.
    Unknown,
    /// It does not work so.
    Wrong,
}

/// One thing that a check has to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name in docs/troubleshoot.md.
    pub code: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What is, or why something is not.
    pub cause: String,
    /// What to do; empty where nothing is to be done.
    pub fix: String,
}

/// All that a check has to say of one subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What was looked at.
    pub subject: String,
    /// In the order in which to read.
    pub findings: Vec<Finding>,
}

// === impl Finding ===

impl Finding {
    /// As it should be.
    pub fn ok(code: &'static str, cause: impl Into<String>) -> Self {
        Self::new(code, Verdict::Ok, cause, "")
    }

    /// Worth knowing.
    pub fn note(code: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(code, Verdict::Note, cause, fix)
    }

    /// It could not be looked at.
    pub fn unknown(code: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(code, Verdict::Unknown, cause, fix)
    }

    /// It does not work so.
    pub fn wrong(code: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(code, Verdict::Wrong, cause, fix)
    }

    fn new(code: &'static str, verdict: Verdict, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            code,
            verdict,
            cause: printable(&cause.into()),
            fix: printable(&fix.into()),
        }
    }
}

// === impl Report ===

impl Report {
    /// A report on this.
    pub fn new(subject: impl Into<String>, findings: Vec<Finding>) -> Self {
        Self {
            subject: printable(&subject.into()),
            findings,
        }
    }

    /// The worst of all: `Wrong` before `Unknown`, then `Ok`; a note alone changes nothing.
    pub fn verdict(&self) -> Verdict {
        let any = |verdict| self.findings.iter().any(|finding| finding.verdict == verdict);
        if any(Verdict::Wrong) {
            Verdict::Wrong
        } else if any(Verdict::Unknown) {
            Verdict::Unknown
        } else {
            Verdict::Ok
        }
    }

    /// For the shell: 0 all is well, 1 something is wrong, 2 something could not be looked at (and nothing seen is wrong).
    pub fn exit_code(&self) -> u8 {
        match self.verdict() {
            Verdict::Ok | Verdict::Note => 0,
            Verdict::Wrong => 1,
            Verdict::Unknown => 2,
        }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.subject);
        for finding in &self.findings {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n{:<8}{}\n        {}\n",
                finding.verdict.word(),
                finding.code,
                finding.cause
            );
            if !finding.fix.is_empty() {
                let _ = writeln!(text, "        fix: {}", finding.fix);
            }
        }
        text
    }

    /// For scripts.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

// === impl Verdict ===

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Unknown => "unknown",
            Self::Wrong => "wrong",
        }
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case(&[], 0; "nothing to say")]
    #[test_case(&[Verdict::Ok, Verdict::Note], 0; "a note")]
    #[test_case(&[Verdict::Unknown, Verdict::Ok], 2; "not seen")]
    #[test_case(&[Verdict::Unknown, Verdict::Wrong], 1; "what is wrong is told before what is not seen")]
    fn exit_codes(verdicts: &[Verdict], code: u8) {
        let findings = verdicts
            .iter()
            .map(|verdict| Finding::new("x", *verdict, "c", "f"))
            .collect();
        assert_eq!(Report::new("s", findings).exit_code(), code);
    }

    #[test]
    fn a_report_reads_from_top_to_bottom_and_cannot_move_the_cursor() {
        let findings = vec![
            Finding::ok("one", "well"),
            Finding::wrong("two", "bad\u{1b}[2J\nline", "mend it"),
        ];
        let text = Report::new("pod a/b", findings).to_text();
        assert_eq!(
            text,
            "pod a/b\n\nok      one\n        well\n\nwrong   two\n        bad [2J line\n        fix: mend it\n"
        );
    }

    #[test]
    fn the_json_has_all_of_it() {
        let report = Report::new("s", vec![Finding::wrong("two", "bad", "mend it")]);
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let expected = serde_json::json!({
            "subject": "s",
            "findings": [{ "code": "two", "verdict": "wrong", "cause": "bad", "fix": "mend it" }],
        });
        assert_eq!(json, expected);
    }
}
