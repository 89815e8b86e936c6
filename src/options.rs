//! What the operator asked for: options, each also a `CMONHACHK_…` environment variable.

use std::env;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::FalseyValueParser;

/// The longest span that an option takes, in seconds.
const MAX_SECONDS: f64 = 3600.0;

const AFTER_HELP: &str = "\
Started by xinetd or systemd with a connection as standard input, it reads the request and answers
it: 200 for the leader, 503 for a follower or an unknown state. Started by hand, it prints the same
answer and exits 0 for the leader, 1 for a follower, 2 for an unknown state.";

/// Answers a health check: is this node's ClusterControl controller the leader?
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
pub struct Options {
    /// Where RPC_BIND_ADDRESSES is read
    #[arg(
        long,
        value_name = "FILE",
        env = "CMONHACHK_CMON_DEFAULTS",
        default_value = "/etc/default/cmon"
    )]
    pub cmon_defaults: PathBuf,

    /// The client: a path, or a name looked up on PATH
    #[arg(long, value_name = "PROGRAM", env = "CMONHACHK_S9S", default_value = "s9s")]
    pub s9s: PathBuf,

    /// Guards the check, and carries the last verdict
    #[arg(
        long,
        value_name = "FILE",
        env = "CMONHACHK_LOCK_FILE",
        default_value = "/run/cmonhachk/lock"
    )]
    pub lock_file: PathBuf,

    /// For the whole check, waiting for the lock included; fractions allowed
    #[arg(long, value_name = "SECONDS", env = "CMONHACHK_TIMEOUT", default_value = "5", value_parser = timeout)]
    pub timeout: Duration,

    /// How old a verdict may be and still be given again; 0: only those who were already waiting share it
    #[arg(long, value_name = "SECONDS", env = "CMONHACHK_MAX_AGE", default_value = "1", value_parser = seconds)]
    pub max_age: Duration,

    /// For a person: say step by step what was read, run, matched and concluded
    #[arg(long, env = "CMONHACHK_EXPLAIN", value_parser = FalseyValueParser::new())]
    pub explain: bool,
}

impl Options {
    /// A digest of what decides the verdict. A verdict on another node's defaults file, or by
    /// another client or one that reads another s9s.conf, is no answer to this check: what a person
    /// tries out by hand must not be given to HAProxy.
    pub fn question(&self) -> u64 {
        let decides = |name: &OsStr| name == "HOME" || name == "PATH" || name.as_bytes().starts_with(b"S9S_");
        let mut environment: Vec<_> = env::vars_os().filter(|(name, _)| decides(name)).collect();
        environment.sort();
        let mut hasher = DefaultHasher::new();
        (env!("CARGO_PKG_VERSION"), &self.cmon_defaults, &self.s9s, environment).hash(&mut hasher);
        hasher.finish()
    }
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
    use clap::CommandFactory;

    #[test]
    fn clap_finds_no_fault_with_the_options() {
        Options::command().debug_assert();
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
