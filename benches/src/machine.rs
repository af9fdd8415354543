//! The machine that the figures are from.

use std::process::Command;

use crate::proc;
use crate::stats::float;

/// Facts that are taken at the start; some are differences up to the end.
#[derive(Debug)]
pub(crate) struct Machine {
    began: (u64, u64),
    load: String,
}

impl Machine {
    /// Looks at it.
    pub(crate) fn look() -> anyhow::Result<Self> {
        let load = first_line("/proc/loadavg");
        Ok(Self {
            began: proc::steal()?,
            load: load.split(' ').next().unwrap_or("?").to_owned(),
        })
    }

    /// One line for each fact.
    pub(crate) fn facts(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let (all, stolen) = proc::steal()?;
        let share = 100.0 * float(stolen - self.began.1) / float((all - self.began.0).max(1));
        Ok(vec![
            ("processor", field("/proc/cpuinfo", "model name")),
            ("cores", cores().to_string()),
            ("memory", field("/proc/meminfo", "MemTotal")),
            ("kernel", first_line("/proc/sys/kernel/osrelease")),
            ("compiler", rustc()),
            ("crypto provider", ensign_pki::crypto::PROVIDER_NAME.to_owned()),
            (
                "taken by the host (steal)",
                format!("{share:.1} % of the processors while this ran"),
            ),
            ("load average when it began", self.load.clone()),
        ])
    }
}

/// Processors that we may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn field(path: &str, name: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let found = text.lines().find(|line| line.starts_with(name));
    found
        .and_then(|line| line.split_once(':'))
        .map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
