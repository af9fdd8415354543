//! Ring `tidy`: rules about the sources themselves that no compiler checks.
//!
//! Each rule is a function from named texts to findings, so that its own test can plant a violation and see it found.
//! The rules run over the files that git would commit; what they enforce is written in CONTRIBUTING.md and ARCHITECTURE.md.

#[path = "tidy/arrows.rs"]
mod arrows;
#[path = "tidy/commands.rs"]
mod commands;
#[path = "tidy/coverage.rs"]
mod coverage;
#[path = "tidy/files.rs"]
mod files;
#[path = "tidy/findings.rs"]
mod findings;
#[path = "tidy/invariants.rs"]
mod invariants;
#[path = "tidy/metrics.rs"]
mod metrics;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/tree.rs"]
mod tree;
