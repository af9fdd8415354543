//! How to log. istio-csr's numbers are understood as well as levels.

use clap::Args;
use ensign_daemon::logging::{LogConfig, LogFormat};
use ensign_daemon::settings::Checker;

#[derive(Debug, Clone, Args)]
pub(super) struct LogArgs {
    /// `text` or `json`
    #[arg(long, env = "ENSIGN_RA_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: String,
    /// Level, or `level,target=level`; or as in istio-csr 1 to 5, from 3 on with what each step does, 5 with what libraries do
    #[arg(
        long,
        short = 'v',
        env = "ENSIGN_RA_LOG_LEVEL",
        default_value = "info",
        value_name = "FILTER"
    )]
    log_level: String,
}

impl LogArgs {
    pub(super) fn check(&self, c: &mut Checker<'_>) -> Option<LogConfig> {
        // istio-csr takes either case.
        let format: Option<LogFormat> = c.parse("log_format", &self.log_format.to_ascii_lowercase(), "text or json");
        let level = c.parse(
            "log_level",
            level(&self.log_level),
            "a level, level,target=level, or 1 to 5",
        );
        Some(LogConfig {
            format: format?,
            level: level?,
        })
    }
}

/// The verbosity of Go's klog in our words. Below 3 klog says little more than its errors and what begins and ends.
fn level(seen: &str) -> &str {
    match seen {
        "0" | "1" | "2" => "info",
        "3" | "4" => "info,ensign_ra=debug,ensign_daemon=debug",
        "5" => "debug",
        other => other,
    }
}
