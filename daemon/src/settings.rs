//! Checks settings so that an operator sees all mistakes at once, and prints what is in effect.
//!
//! clap stops at the first bad value. So our clap structs hold plain texts, and [`Checker`] parses
//! them: each mistake names the flag and the variable, what was seen, what was expected and why it
//! was refused. A value that looks like a key or a token (pasted where a path belongs) is never shown.

use std::{collections::BTreeMap, fmt, str::FromStr};

use clap::{ArgMatches, Command, CommandFactory, error::ErrorKind, parser::ValueSource};

use crate::redact;

/// Collects the mistakes of one command line.
#[derive(Debug)]
pub struct Checker<'a> {
    command: &'a Command,
    problems: Vec<String>,
}

/// Every mistake that was found, one per line.
#[derive(Debug, PartialEq, Eq)]
pub struct Problems(Vec<String>);

// === impl Checker ===

impl<'a> Checker<'a> {
    /// `command` is where flags and variables are declared (`CommandFactory::command()`).
    pub fn new(command: &'a Command) -> Self {
        Self {
            command,
            problems: Vec::new(),
        }
    }

    /// Parses `seen`, the value of argument `id`; a mistake is noted and gives `None`.
    pub fn parse<T>(&mut self, id: &str, seen: &str, expected: &str) -> Option<T>
    where
        T: FromStr<Err: std::error::Error + 'static>,
    {
        self.check(id, seen, expected, seen.parse::<T>())
    }

    /// Takes the value of `outcome`, or notes its error as a mistake of argument `id`.
    pub fn check<T, E>(&mut self, id: &str, seen: &str, expected: &str, outcome: Result<T, E>) -> Option<T>
    where
        E: std::error::Error + 'static,
    {
        outcome
            .map_err(|error| self.refuse(id, seen, expected, &crate::logging::chain(&error)))
            .ok()
    }

    /// Notes a mistake: the value `seen` of argument `id` is not what was `expected`; `why` says what
    /// is wrong with it and what to do.
    pub fn refuse(&mut self, id: &str, seen: &str, expected: &str, why: &str) {
        let (name, seen, why) = (self.name(id), shown(seen), shown(why));
        self.problems
            .push(format!("{name}: is `{seen}`, expected {expected}: {why}"));
    }

    /// Refuses every value that is a key or a token itself: settings name files, and what they hold is shown freely.
    pub fn refuse_secrets(&mut self, matches: &ArgMatches) {
        for argument in self.command.get_arguments() {
            let id = argument.get_id().as_str();
            let values = matches.try_get_raw(id).ok().flatten().into_iter().flatten();
            for value in values.map(|value| value.to_string_lossy()) {
                if redact::secrets(&value) != value {
                    let why =
                        "a secret does not belong on a command line or in the environment; name a file that holds it";
                    self.refuse(id, &value, "no key or token", why);
                }
            }
        }
    }

    /// Notes a mistake in what no argument stands for; the text names it, and is shown without what looks like a secret.
    pub fn mistake(&mut self, text: &str) {
        self.problems.push(shown(text));
    }

    /// Notes that argument `id` is required and absent.
    pub fn missing(&mut self, id: &str, expected: &str) {
        let name = self.name(id);
        self.problems.push(format!("{name}: is not set, expected {expected}"));
    }

    /// `value`, unless a mistake was noted or a part of it is missing.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Problems> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(Problems(self.problems)),
        }
    }

    /// `--flag (VARIABLE)` of an argument.
    pub fn name(&self, id: &str) -> String {
        let argument = self.command.get_arguments().find(|argument| argument.get_id() == id);
        let flag = argument.and_then(clap::Arg::get_long).unwrap_or(id);
        match argument.and_then(clap::Arg::get_env) {
            Some(variable) => format!("--{flag} ({})", variable.to_string_lossy()),
            None => format!("--{flag}"),
        }
    }
}

// === impl Problems ===

impl Problems {
    /// How many mistakes there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} mistake(s) in the settings", self.0.len())?;
        self.0
            .iter()
            .try_for_each(|problem| write!(formatter, "\n  - {problem}"))
    }
}

/// The flags of `T` and of its commands. Its help names variables and does not print what they hold.
pub fn command<T: CommandFactory>() -> Command {
    without_values(T::command())
}

fn without_values(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|one| one.get_name().to_owned()).collect();
    let command = command.mut_args(|argument| argument.hide_env_values(true));
    names
        .into_iter()
        .fold(command, |command, name| command.mut_subcommand(name, without_values))
}

/// What clap says of a command line that it cannot use; it quotes the line, so secrets are taken out. `None` for help
/// and version, which are answers and no mistakes.
pub fn usage(error: &clap::Error) -> Option<String> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => None,
        _ => Some(redact::random_words(&error.to_string()).trim_end().to_owned()),
    }
}

/// The settings in effect as JSON: flag to value and where it came from (`--print-config`).
pub fn print(command: &Command, matches: &ArgMatches) -> String {
    let settings: BTreeMap<_, _> = command
        .get_arguments()
        .filter(|argument| argument.get_action().takes_values())
        .map(|argument| (argument.get_long().unwrap_or_default(), setting(argument, matches)))
        .collect();
    serde_json::to_string_pretty(&settings).unwrap_or_default()
}

fn setting(argument: &clap::Arg, matches: &ArgMatches) -> serde_json::Value {
    let id = argument.get_id().as_str();
    let values: Vec<_> = matches
        .get_raw(id)
        .into_iter()
        .flatten()
        .map(|value| shown(&value.to_string_lossy()))
        .collect();
    let from = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => "flag",
        Some(ValueSource::EnvVariable) => "environment",
        Some(_) => "default",
        None => "unset",
    };
    let value = if values.len() > 1 {
        values.into()
    } else {
        values.into_iter().next().into()
    };
    let value: serde_json::Value = value;
    serde_json::json!({
        "value": value,
        "from": from,
        "variable": argument.get_env().map(|name| name.to_string_lossy().into_owned()),
    })
}

/// The value without what looks like a secret, cut to a readable length.
pub fn shown(value: &str) -> String {
    let value = redact::secrets(value);
    match value.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.into_owned(),
    }
}

const MAX_SHOWN: usize = 500;

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::GoDuration;

    #[derive(Parser)]
    struct Flags {
        #[arg(long, env = "ENSIGN_TEST_TTL", default_value = "24h")]
        ttl: String,
        #[arg(long)]
        port: String,
    }

    #[test]
    fn all_mistakes_at_once_each_with_its_names() {
        let flags = Flags::parse_from(["x", "--ttl", "24", "--port", "http"]);
        let command = Flags::command();
        let mut checker = Checker::new(&command);
        let ttl: Option<GoDuration> = checker.parse("ttl", &flags.ttl, "a Go duration");
        let port: Option<u16> = checker.parse("port", &flags.port, "a port");
        let problems = checker.finish(ttl.zip(port)).unwrap_err();
        assert_eq!(problems.count(), 2);
        let text = problems.to_string();
        assert!(
            text.contains("--ttl (ENSIGN_TEST_TTL): is `24`, expected a Go duration"),
            "{text}"
        );
        assert!(text.contains("--port: is `http`"), "{text}");
    }

    #[test]
    fn prints_values_with_their_source_and_no_secret() {
        let command = Flags::command();
        let matches = command
            .clone()
            .get_matches_from(["x", "--port", "eyJhbGciOi.eyJz.c2ln"]);
        let text = print(&command, &matches);
        assert!(text.contains(r#""value": "24h""#), "{text}");
        assert!(text.contains(r#""from": "flag""#), "{text}");
        assert!(!text.contains("eyJ"), "{text}");
        assert!(!shown("-----BEGIN PRIVATE KEY-----\nabc").contains("abc"));
        let mut checker = Checker::new(&command);
        checker.refuse_secrets(&matches);
        let problems = checker.finish(Some(())).unwrap_err().to_string();
        assert!(problems.contains("--port: is `<redacted"), "{problems}");
    }

    #[test]
    fn neither_help_nor_a_mistaken_line_repeats_a_secret() {
        // cargo sets this one for every test.
        #[derive(Parser)]
        struct Help {
            #[arg(long, env = "CARGO_MANIFEST_DIR")]
            _folder: Option<String>,
        }
        let help = command::<Help>().render_long_help().to_string();
        assert!(help.contains("[env: CARGO_MANIFEST_DIR]"), "{help}");
        let line = ["x", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"];
        let error = command::<Help>().try_get_matches_from(line).unwrap_err();
        let text = usage(&error).unwrap();
        assert!(text.contains("unexpected argument") && !text.contains("eyJ"), "{text}");
        assert_eq!(
            usage(&command::<Help>().try_get_matches_from(["x", "--help"]).unwrap_err()),
            None
        );
    }
}
