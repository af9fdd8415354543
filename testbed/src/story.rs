//! The narrator of a scenario: what is being done, and each claim with its evidence.
//!
//! In the demo a person reads it; in a test the runner captures it and shows it with a failure. A claim that does not
//! hold is an error of the scenario, never a line of text.

/// Tells a scenario on standard output.
#[derive(Debug, Default)]
pub struct Story {
    claims: usize,
    silent: bool,
}

impl Story {
    /// Says nothing: for what has been told before.
    pub fn silent() -> Self {
        Self {
            claims: 0,
            silent: true,
        }
    }

    /// A new chapter.
    pub fn chapter(&mut self, title: &str) {
        self.say(&format!("\n== {title}"));
    }

    /// What is happening.
    pub fn tell(&mut self, text: &str) {
        self.say(&format!("   {text}"));
    }

    /// Something that was just found to hold, and how one can see it.
    pub fn claim(&mut self, claim: &str, evidence: &str) {
        self.claims += 1;
        self.say(&format!(" ✓ {claim}"));
        self.say(&format!("     {evidence}"));
    }

    /// How many claims held.
    pub fn claims(&self) -> usize {
        self.claims
    }

    #[expect(clippy::print_stdout, reason = "the narration is the output of the demo")]
    fn say(&self, line: &str) {
        if !self.silent {
            println!("{line}");
        }
    }
}
