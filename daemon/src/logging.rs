//! The one place that sets up logs: text or JSON lines on standard error, filtered by level.
//!
//! Promises one logger per process and no second configuration path (`RUST_LOG` is not read).
//! Secrets stay out at the source: our types redact themselves, `authorization` metadata is marked
//! sensitive, and h2 and hyper print neither header values nor payload bytes at any level (the leak
//! test of the whole-system ring holds them to that), so no target is capped here but one that could feed itself.

use std::str::FromStr;

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, ParseError, filter_fn},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// Format and filter of the process's log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Text or JSON.
    pub format: LogFormat,
    /// Which lines are written.
    pub level: LogLevel,
}

/// A checked filter such as `info` or `info,ensign_agent::sds=debug`.
#[derive(Clone, Debug)]
pub struct LogLevel(String);

/// Why logging could not be configured.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Something else installed a logger first.
    #[error("a logger is installed already; a process has exactly one")]
    Installed,
    /// Neither `text` nor `json`.
    #[error("unknown log format, expected `text` or `json`")]
    Format,
    /// Not in the syntax of `tracing`'s filters.
    #[error("not a log filter, expected a level (error, warn, info, debug, trace) or `level,target=level`")]
    Level(#[source] ParseError),
    /// A word that is no level.
    #[error("unknown log level, expected error, warn, info, debug, trace or off (and `target=level` for one target)")]
    UnknownLevel,
}

/// Starts logging for the whole process.
pub fn init(config: &LogConfig) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(&config.level.0).map_err(LoggingError::Level)?;
    let layer = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(feeds_nothing));
    match config.format {
        LogFormat::Json => registry
            .with(layer.json().flatten_event(true).with_current_span(true))
            .try_init(),
        LogFormat::Text => registry.with(layer.with_ansi(false)).try_init(),
    }
    .map_err(|_| LoggingError::Installed)
}

/// At trace `notify` logs each event of a watched folder. If the log goes to a file in that folder, each line makes an
/// event and so the next line, without end.
fn feeds_nothing(metadata: &Metadata<'_>) -> bool {
    *metadata.level() != Level::TRACE || !metadata.target().starts_with("notify::")
}

/// An error and its causes on one line, for a log field or an exit message; a secret that one of them quotes is taken out.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    crate::redact::secrets(&text).into_owned()
}

// === impl LogFormat ===

impl FromStr for LogFormat {
    type Err = LoggingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(LoggingError::Format),
        }
    }
}

// === impl LogLevel ===

impl FromStr for LogLevel {
    type Err = LoggingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A bare word is read as a target's name by the filter, so `inof` would silence everything.
        let is_level = |word: &str| word.trim().parse::<LevelFilter>().is_ok();
        let mut bare_words = text.split(',').filter(|part| !part.contains(['=', '[']));
        if text.is_empty() || !bare_words.all(is_level) {
            return Err(LoggingError::UnknownLevel);
        }
        EnvFilter::try_new(text).map_err(LoggingError::Level)?;
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Display for LogLevel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case("info", true)]
    #[test_case("warn,ensign_agent::sds=trace", true)]
    #[test_case("off", true)]
    #[test_case("inof", false; "a typo of a level is no target")]
    #[test_case("info,=", false)]
    #[test_case("", false)]
    fn level(text: &str, good: bool) {
        assert_eq!(text.parse::<LogLevel>().is_ok(), good);
    }

    #[test]
    fn a_chain_says_each_cause_once() {
        let error = anyhow::anyhow!("inner").context("outer");
        assert_eq!(chain(error.as_ref()), "outer: inner");
    }
}
