//! The agent's process: harden, settings, log, run, exit code; or one command of a person.

use std::io::Write as _;
use std::process::ExitCode;

use ensign_agent::config::{self, Config, ConfigError, Request};
use ensign_agent::source::{
    self,
    csi::{Fence, FenceError},
};
use ensign_agent::{app, cli, preflight};
use ensign_daemon::supervise::Signals;
use ensign_daemon::{Finding, Verdict, descriptors, hardening, logging, settings};

fn main() -> ExitCode {
    // Before anything else: from here on there may be keys in memory.
    if let Err(error) = hardening::harden() {
        return refuse(&logging::chain(&error));
    }
    match config::load(std::env::args_os()) {
        Ok(Request::Run(config)) => start(*config),
        Ok(Request::Command(command)) => cli::run(*command),
        Ok(Request::Print(text)) => {
            let printed = writeln!(std::io::stdout(), "{text}");
            if printed.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(ConfigError::Flags(error)) => {
            // clap knows where help and version belong, and all exit codes.
            let _ = match settings::usage(&error) {
                Some(text) => writeln!(std::io::stderr(), "{text}"),
                None => error.print(),
            };
            u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(ConfigError::Values(problems)) => refuse(&problems.to_string()),
    }
}

fn start(config: Config) -> ExitCode {
    if let Err(error) = logging::init(&config.log) {
        return refuse(&logging::chain(&error));
    }
    tracing::info!(files = %descriptors::raise(), "files that may be open at once");
    if let Err(reason) = look_around(&config) {
        return refuse(&reason);
    }
    // Before the first thread: threads get the fence of the one that starts them.
    let fence = match fence(&config.source) {
        Ok(fence) => fence,
        Err(error) => return refuse(&logging::chain(&error)),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("cannot start the async runtime: {error}")),
    };
    let outcome = runtime.block_on(async {
        let signals = Signals::install()?;
        app::bind_fenced(config, fence).await?.run(Some(signals)).await
    });
    // Long enough to drop every task, and so remove every socket file; what hangs on a blocking thread must not hold us.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&logging::chain(error.as_ref())),
    }
}

/// What can never heal by itself is the reason not to start, all of it; what may heal is only said.
fn look_around(config: &Config) -> Result<(), String> {
    let mut never = Vec::new();
    for finding in preflight::check(config) {
        let Finding {
            code,
            verdict,
            cause,
            fix,
        } = finding;
        match verdict {
            Verdict::Wrong => never.push(format!("\n  - {code}: {cause}; {fix}")),
            Verdict::Ok | Verdict::Note | Verdict::Unknown => tracing::warn!(code, cause, fix, "preflight"),
        }
    }
    if never.is_empty() {
        return Ok(());
    }
    Err(format!(
        "cannot work on this machine with these settings:{}",
        never.concat()
    ))
}

fn fence(source: &source::Config) -> Result<Fence, FenceError> {
    match source {
        source::Config::Csi(config) => Fence::raise(config),
        // The operator's own paths, and no pods.
        source::Config::Fixed(_) => Ok(Fence::None),
    }
}

/// Straight to standard error, so that no log filter can hide why the agent is not there.
fn refuse(reason: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "ensign-agent: {reason}");
    ExitCode::FAILURE
}
