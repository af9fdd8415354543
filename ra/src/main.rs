//! `ensign-ra`: reads its settings, hardens the process and runs the authority until it is told to stop.
//!
//! Hardening comes before anything else, so that no key is ever in a process that can be dumped.

use std::io::Write as _;
use std::process::ExitCode;

use ensign_daemon::supervise::Signals;
use ensign_daemon::{descriptors, hardening, logging, settings};
use ensign_ra::app;
use ensign_ra::config::{Command, Config, ConfigError};
use ensign_ra::in_use::InUse;

fn main() -> ExitCode {
    if let Err(error) = hardening::harden() {
        return fail(&logging::chain(&error));
    }
    let config = match Command::read(std::env::args_os()) {
        Ok(Command::Run(config)) => config,
        Ok(Command::Print(text)) => {
            return match writeln!(std::io::stdout(), "{text}") {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        Ok(Command::InUse(question)) => {
            return match answer(&question) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&logging::chain(error.as_ref())),
            };
        }
        Err(ConfigError::Usage(error)) => {
            // clap knows where help and version belong, and all exit codes.
            _ = match settings::usage(&error) {
                Some(text) => writeln!(std::io::stderr(), "{text}"),
                None => error.print(),
            };
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
        Err(ConfigError::Refused(flag)) => return fail(&flag.to_string()),
        Err(ConfigError::Problems(problems)) => return fail(&problems.to_string()),
    };
    match run(*config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&logging::chain(error.as_ref())),
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    logging::init(&config.log)?;
    tracing::info!(files = %descriptors::raise(), "files that may be open at once");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let signals = Signals::install()?;
        app::bind(config).await?.run(Some(signals)).await
    })
}

fn answer(question: &InUse) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(question.check())?)
}

fn fail(text: &str) -> ExitCode {
    // Nothing is left to do if even this cannot be written.
    _ = writeln!(std::io::stderr(), "ensign-ra: {text}");
    ExitCode::FAILURE
}
