//! What the operator asked for: options, each also a `CMONHACHK_…` variable, in the environment or
//! in the settings file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::builder::NonEmptyStringValueParser;
use clap::{CommandFactory, FromArgMatches, Parser};

use crate::os::env_file::{Line, lines};
use crate::os::files::{is_missing, read_file};

/// The settings file.
pub const SETTINGS: &str = "/etc/default/cmonhachk";

/// How long a check may take if `--timeout` does not say so.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(1500);

/// The longest time that an option can set, in seconds.
const LONGEST: f64 = 3600.0;

const ABOUT: &str = "\
Answers a health check: is this node's ClusterControl controller the leader?

What does this node answer, and why? As root:
  runuser -u cmonhachk -- env -i /usr/sbin/cmonhachk --explain";

const AFTER_HELP: &str = "\
Each option can also be set by its variable, in the environment or as a line NAME=VALUE of
/etc/default/cmonhachk. An option outranks its variable, and the environment outranks the file.

With a connection as standard input, it reads the request and responds; from a socket that listens, it
accepts, and makes a process for each connection. The response is 200 for the leader, 503 for a
follower or if the role is unknown. The path /health is 200 for a follower, too, and HAProxy's agent
check sends the line 'agent'. On the command line, it prints the response and exits with 0 for the leader, 1 for a
follower, 2 if the role is unknown.";

/// What the operator asked for.
#[derive(Debug, Parser)]
#[command(version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Options {
    /// The file with RPC_BIND_ADDRESSES
    #[arg(
        long,
        value_name = "FILE",
        env = "CMONHACHK_CMON_DEFAULTS",
        default_value = "/etc/default/cmon"
    )]
    pub cmon_defaults: PathBuf,

    /// This node's address or name as in the list, instead of RPC_BIND_ADDRESSES
    #[arg(long, value_name = "NODE", env = "CMONHACHK_NODE", value_parser = NonEmptyStringValueParser::new())]
    pub node: Option<String>,

    /// The s9s client: a path, or a name that is looked up on PATH
    #[arg(long, value_name = "PROGRAM", env = "CMONHACHK_S9S", default_value = "s9s")]
    pub s9s: PathBuf,

    /// The lock of the check; the cached verdict is beside it
    #[arg(
        long,
        value_name = "FILE",
        env = "CMONHACHK_LOCK_FILE",
        default_value = "/run/cmonhachk/lock"
    )]
    pub lock_file: PathBuf,

    /// Time limit of the whole check, with the wait for the lock, for example 2.5
    #[arg(long, value_name = "SECONDS", env = "CMONHACHK_TIMEOUT", default_value = "1.5", value_parser = timeout)]
    pub timeout: Duration,

    // Less than a second, because some clients ask each second (deploy/keepalived/leader.conf): with a second, they would
    // get every other verdict twice.
    /// How long a verdict is used again. With 0, only checks that are already waiting share it
    #[arg(long, value_name = "SECONDS", env = "CMONHACHK_MAX_AGE", default_value = "0.9", value_parser = seconds)]
    pub max_age: Duration,

    /// The longest back-off: how long s9s is not run after a failed login. With 0 there is none
    #[arg(long, value_name = "SECONDS", env = "CMONHACHK_BACKOFF", default_value = "300", value_parser = seconds)]
    pub backoff: Duration,

    /// While this file is there, the response is 503 and s9s is not run
    #[arg(
        long,
        value_name = "FILE",
        env = "CMONHACHK_MAINTENANCE",
        default_value = "/run/cmonhachk.maintenance"
    )]
    pub maintenance: PathBuf,

    /// For a person: print what the service answers, and what a new check finds out
    #[arg(long)]
    pub explain: bool,

    /// Accept connections here, without a super-server, for example in a container
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "explain")]
    pub listen: Option<SocketAddr>,
}

impl Options {
    /// The options: from the arguments, the environment, and the settings file, in this order.
    ///
    /// # Errors
    /// The first argument, variable or line of the file that cannot be used; as a [`clap::Error`] also
    /// `--help` and `--version`.
    pub fn read() -> Result<Options> {
        let text = match read_file(Path::new(SETTINGS)) {
            Ok(text) => text,
            Err(error) if is_missing(&error) => Vec::new(),
            Err(error) => return Err(anyhow!(error).context(format!("cannot read {SETTINGS}"))),
        };
        let command = with_settings(Options::command(), &text)?;
        Ok(Options::from_arg_matches(&command.try_get_matches()?)?)
    }
}

/// Makes each setting of the file the default of its option.
fn with_settings(mut command: clap::Command, text: &[u8]) -> Result<clap::Command> {
    for (number, line) in lines(text).enumerate() {
        let place = || format!("{SETTINGS}, line {}", number + 1);
        let (name, value) = match line {
            Line::Nothing => continue,
            Line::Assignment(name, Some(value)) => (String::from_utf8_lossy(name), String::from_utf8(value)),
            Line::Assignment(_, None) | Line::Other => return Err(anyhow!("not a line NAME=VALUE").context(place())),
        };
        let has_name = |argument: &&clap::Arg| argument.get_env().is_some_and(|variable| *variable == *name);
        let option = command.get_arguments().find(has_name);
        let option = option
            .with_context(|| format!("there is no setting {name}"))
            .with_context(place)?;
        let (id, long) = (option.get_id().clone(), option.get_long().unwrap_or_default());
        let value = value.with_context(place)?;
        // Parse it alone, so that an error in it is found and named even if something outranks it.
        without_environment()
            .try_get_matches_from(["cmonhachk", &format!("--{long}={value}")])
            .map_err(|error| anyhow!(in_short(&error.into())))
            .with_context(place)?;
        command = command.mut_arg(id, |argument| argument.default_value(value));
    }
    Ok(command)
}

/// The options as a command line alone sets them.
fn without_environment() -> clap::Command {
    Options::command().mut_args(|argument| argument.env(None::<&str>))
}

/// The error on one line, without clap's advice on usage.
pub fn in_short(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().replace("error: ", "")
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_string())?;
    if !(0.0..=LONGEST).contains(&number) {
        return Err(format!("not between 0 and {LONGEST} seconds"));
    }
    Ok(Duration::from_secs_f64(number))
}

fn timeout(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("the time must be more than 0 seconds".to_string()),
        span => Ok(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_fault_with_the_options() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_default_timeout_is_the_one_that_help_tells() {
        let options = without_environment().get_matches_from(["cmonhachk"]);
        let options = Options::from_arg_matches(&options).unwrap();
        assert_eq!(options.timeout, DEFAULT_TIMEOUT);
    }

    #[test]
    fn each_option_that_has_a_variable_works_in_the_settings_file() {
        for option in Options::command().get_arguments() {
            let Some(variable) = option.get_env() else { continue };
            let text = format!("{}=2\n", variable.to_string_lossy());
            let command = with_settings(Options::command(), text.as_bytes()).unwrap();
            let command = command.mut_args(|argument| argument.env(None::<&str>));
            let matches = command.get_matches_from(["cmonhachk"]);
            let mut values = matches.get_raw(option.get_id().as_str()).unwrap();
            assert_eq!(values.next().unwrap(), "2", "{option}");
        }
    }

    #[test]
    fn spans_are_seconds_with_fractions() {
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(timeout("5"), Ok(Duration::from_secs(5)));
        for text in ["", "-1", "NaN", "inf", "5s", "1e9", "3601"] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
        assert!(timeout("0").is_err());
        assert!(timeout("1e-12").is_err());
    }

    #[test]
    fn a_settings_file_sets_defaults_and_its_faults_are_named() {
        let read = |text: &str| {
            let command = with_settings(Options::command(), text.as_bytes())?;
            let command = command.mut_args(|argument| argument.env(None::<&str>));
            Ok::<_, anyhow::Error>(Options::from_arg_matches(&command.try_get_matches_from([
                "cmonhachk",
                "--max-age",
                "7",
            ])?)?)
        };
        let options = read("# ours\nexport CMONHACHK_TIMEOUT='2.5'\nCMONHACHK_MAX_AGE=3\n").unwrap();
        assert_eq!(options.timeout, Duration::from_millis(2500));
        assert_eq!(options.max_age, Duration::from_secs(7), "the option outranks the file");
        for (text, words) in [
            (
                "\nCMONHACHK_TIMEOUT=never",
                "line 2: invalid value 'never' for '--timeout <SECONDS>'",
            ),
            (
                "CMONHACHK_MAX_AGE=never",
                "line 1: invalid value 'never' for '--max-age <SECONDS>'",
            ),
            ("CMONHACHK_TIMOUT=3", "line 1: there is no setting CMONHACHK_TIMOUT"),
            ("HOME=/", "line 1: there is no setting HOME"),
            ("#\n\ntimeout 3", "line 3: not a line NAME=VALUE"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(SETTINGS) && error.contains(words), "{error}");
        }
    }
}
