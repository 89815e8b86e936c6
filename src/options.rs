//! What the operator asked for: options, each also a `CMONHACHK_…` environment variable.

use std::env;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

/// The lock file, unless an option names another.
const LOCK_FILE: &str = "/run/cmonhachk.lock";

/// The longest span that an option takes, in seconds.
const MAX_SECONDS: f64 = 3600.0;

const AFTER_HELP: &str = "\
Started by xinetd or systemd with a connection as standard input, it reads the request and answers
it: 200 for the leader, 503 for a follower or an unknown state. Started by hand, it prints the same
answer and exits 0 for the leader, 1 for a follower, 2 for an unknown state.";

/// What a check is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where RPC_BIND_ADDRESSES is read.
    pub cmon_defaults: PathBuf,
    /// The client: a path, or a name that is looked up on PATH.
    pub s9s: PathBuf,
    /// Guards the check, and carries the last verdict.
    pub lock_file: PathBuf,
    /// For the whole check, waiting for the lock included.
    pub timeout: Duration,
    /// How old a verdict may be and still be given again.
    pub max_age: Duration,
    /// Whether a check by hand tells its story.
    pub explain: bool,
}

/// The options for clap. Built by hand: clap's macro would be a plug-in of the compiler, and those
/// cannot be built for a static binary.
fn command() -> Command {
    let option = |name, value, variable, default, help| {
        Arg::new(name)
            .long(name)
            .value_name(value)
            .env(variable)
            .default_value(default)
            .help(help)
    };
    Command::new("cmonhachk")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Answers a health check: is this node's ClusterControl controller the leader?")
        .after_help(AFTER_HELP)
        .args([
            option(
                "cmon-defaults",
                "FILE",
                "CMONHACHK_CMON_DEFAULTS",
                "/etc/default/cmon",
                "Where RPC_BIND_ADDRESSES is read",
            )
            .value_parser(value_parser!(PathBuf)),
            option(
                "s9s",
                "PROGRAM",
                "CMONHACHK_S9S",
                "s9s",
                "The client: a path, or a name looked up on PATH",
            )
            .value_parser(value_parser!(PathBuf)),
            option(
                "lock-file",
                "FILE",
                "CMONHACHK_LOCK_FILE",
                LOCK_FILE,
                "Guards the check, and carries the last verdict",
            )
            .value_parser(value_parser!(PathBuf)),
            option(
                "timeout",
                "SECONDS",
                "CMONHACHK_TIMEOUT",
                "5",
                "For the whole check, waiting for the lock included; fractions allowed",
            )
            .value_parser(timeout),
            option(
                "max-age",
                "SECONDS",
                "CMONHACHK_MAX_AGE",
                "1",
                "How old a verdict may be and still be given again; 0: only those who were already waiting share it",
            )
            .value_parser(seconds),
            Arg::new("explain")
                .long("explain")
                .env("CMONHACHK_EXPLAIN")
                .action(ArgAction::SetTrue)
                .value_parser(FalseyValueParser::new())
                .help("For a person: say step by step what was read, run, matched and concluded"),
        ])
}

impl Options {
    /// Reads the options from the arguments and the environment.
    ///
    /// # Errors
    /// One that is unknown or cannot be used; and, as clap has it, `--help` and `--version`.
    pub fn read() -> Result<Options, clap::Error> {
        let mut given = command().try_get_matches()?;
        Ok(Options {
            cmon_defaults: value(&mut given, "cmon-defaults"),
            s9s: value(&mut given, "s9s"),
            lock_file: value(&mut given, "lock-file"),
            timeout: value(&mut given, "timeout"),
            max_age: value(&mut given, "max-age"),
            explain: given.get_flag("explain"),
        })
    }
}

/// Where the lock file is, most likely: for a look at it before the options are read. Whoever looks
/// must believe only what answers its own [`question`]; then a wrong guess finds nothing.
pub fn likely_lock_file() -> PathBuf {
    let mut arguments = env::args_os().skip_while(|argument| argument != "--lock-file").skip(1);
    let named = arguments.next().or_else(|| env::var_os("CMONHACHK_LOCK_FILE"));
    named.unwrap_or_else(|| LOCK_FILE.into()).into()
}

/// A digest of what this check was asked: its arguments, and what of its environment decides the
/// verdict or the options. A verdict on another node's defaults file, or by another client or one
/// that reads another s9s.conf, is no answer to this check: what a person tries out by hand must
/// not be given to HAProxy.
pub fn question() -> u64 {
    let decides = |name: &OsStr| {
        let name = name.as_bytes();
        name == b"HOME" || name == b"PATH" || name.starts_with(b"S9S_") || name.starts_with(b"CMONHACHK_")
    };
    let mut environment: Vec<_> = env::vars_os().filter(|(name, _)| decides(name)).collect();
    environment.sort();
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let mut hasher = DefaultHasher::new();
    (env!("CARGO_PKG_VERSION"), arguments, environment).hash(&mut hasher);
    hasher.finish()
}

fn value<T: Clone + Send + Sync + 'static>(given: &mut ArgMatches, option: &str) -> T {
    given.remove_one(option).expect("every option has a default")
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_string())?;
    if !(0.0..=MAX_SECONDS).contains(&number) {
        return Err(format!("not between 0 and {MAX_SECONDS} seconds"));
    }
    Ok(Duration::from_secs_f64(number))
}

fn timeout(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("no check is over in no time; give it more than 0 seconds".to_string()),
        span => Ok(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_fault_with_the_options() {
        command().debug_assert();
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
}
