//! What did the operator ask for, now and the last time?
//!
//! The table of options is [`Arguments`]. What it does not list in [`OF_ONE_RUN`] is remembered: the first line of
//! our configuration has the arguments of the last run, and the next run takes from there what it is not given.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::process::exit;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};

use crate::failure::{Failure, Outcome};

/// Begins the line with the last arguments.
const MEMORY: &str = "# cmonhachk-front ";

/// Follows it.
const MEMORY_NOTE: &str = "# The line above is for the next run, which replaces this file.";

/// Options of one run, which the next one does not take over. The addresses are remembered in another way.
const OF_ONE_RUN: &[&str] = &["dry_run", "status", "remove", "help", "version", "addresses"];

/// Puts the ClusterControl UI of the leading NODE at one virtual address (VIP). Run it on each node with the same
/// arguments. Arguments that are missing are those of its last run.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cmonhachk-front",
    disable_version_flag = true,
    override_usage = "cmonhachk-front [OPTION]... VIP NODE NODE...
       cmonhachk-front --without-haproxy [OPTION]... VIP NODE NODE...
       cmonhachk-front --haproxy-only [OPTION]... NODE NODE...
       cmonhachk-front --status [OPTION]... [VIP NODE...]
       cmonhachk-front --remove [--dry-run]",
    after_help = "cmonhachk-front(8) says more."
)]
struct Arguments {
    /// The VIP and the nodes' addresses
    #[arg(value_name = "ADDRESS", value_parser = address, hide = true)]
    addresses: Vec<IpAddr>,

    /// keepalived alone: the VIP is on the node that leads
    #[arg(long, conflicts_with = "haproxy_only")]
    without_haproxy: bool,

    /// HAProxy without a VIP, for a host that is not a node
    #[arg(long)]
    haproxy_only: bool,

    /// The UI's port on the nodes
    #[arg(long, value_name = "PORT", default_value = "443", value_parser = port)]
    ui_port: u16,

    /// The port that users go to
    #[arg(long, conflicts_with = "without_haproxy", value_name = "PORT", default_value = "81", value_parser = port)]
    front_port: u16,

    /// The port of HAProxy's statistics
    #[arg(long, conflicts_with = "without_haproxy", value_name = "PORT", default_value = "9600", value_parser = port)]
    stats_port: u16,

    /// Who can read these besides the nodes: addresses and networks, with commas between
    #[arg(long, conflicts_with = "without_haproxy", value_name = "LIST", value_parser = networks)]
    stats_from: Option<String>,

    /// VRRP's virtual router id, 1 to 255
    #[arg(long, value_name = "ID", default_value = "51", value_parser = router_id)]
    router_id: u8,

    /// The interface that gets the VIP [default: the one with this node's address]
    #[arg(long, value_name = "NAME", value_parser = interface)]
    interface: Option<String>,

    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Show each node, who has the VIP, and where users get to
    #[arg(long, conflicts_with = "remove")]
    status: bool,

    /// Remove all of this from the host
    #[arg(long)]
    remove: bool,

    /// Print the version
    #[arg(short = 'V', long)]
    version: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set the front up, or repair it.
    SetUp,
    /// Show it.
    Status,
    /// Remove it.
    Remove,
}

/// How users get to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// HAProxy on each node, and the address on a node whose HAProxy runs.
    Haproxy,
    /// The address on the node that leads.
    Keepalived,
    /// HAProxy alone, on a host that is not a node.
    HaproxyOnly,
}

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is to be done.
    pub action: Action,
    /// Whether it is only to be shown.
    pub dry_run: bool,
    /// How users get to the leader.
    pub way: Way,
    /// The address, except with [`Way::HaproxyOnly`], and the nodes.
    pub addresses: Vec<IpAddr>,
    /// The UI's port.
    pub ui_port: u16,
    /// The port that users go to.
    pub front_port: u16,
    /// The port of HAProxy's statistics.
    pub stats_port: u16,
    /// Who can read the statistics, besides the nodes.
    pub stats_from: Option<String>,
    /// VRRP's router id.
    pub router_id: u8,
    /// The interface that gets the address, if it was named.
    pub interface: Option<String>,
    /// The options to remember, in words.
    pub words: Vec<String>,
}

impl Options {
    /// Reads the command line and, for what it does not say, the arguments of the last run, which are in the first of
    /// these configurations that there is.
    ///
    /// # Errors
    /// One of them is wrong.
    pub fn read(configurations: &[&str]) -> Outcome<Options> {
        let given = parse(env::args_os().skip(1))?;
        let is_removal = Arguments::from_arg_matches(&given).is_ok_and(|given| given.remove);
        // A removal does not need the last arguments, which another version may have written.
        let last = match is_removal {
            true => None,
            false => configurations.iter().find_map(|file| last(file)),
        };
        Options::of(&given, last.as_deref())
    }

    /// # Errors
    /// The last run had another way, or a value is wrong.
    fn of(given: &ArgMatches, last: Option<&str>) -> Outcome<Options> {
        let mut words = remembered(given);
        let now = typed(given)?;
        let mut addresses = now.addresses.clone();
        if let Some(last) = last {
            let last = parse(known(last).into_iter().map(OsString::from))?;
            let before = typed(&last)?;
            if (!addresses.is_empty() || names_way(&now)) && way(&now) != way(&before) {
                return Err(Failure::of_usage(&other_way(way(&before))));
            }
            if addresses.is_empty() {
                addresses = before.addresses;
            }
            let is_given = |pair: &(String, Option<String>)| words.iter().any(|(name, _)| *name == pair.0);
            let kept: Vec<_> = remembered(&last).into_iter().filter(|pair| !is_given(pair)).collect();
            words.extend(kept);
        }
        words.sort();
        let words: Vec<String> = words
            .into_iter()
            .flat_map(|(name, value)| [Some(name), value])
            .flatten()
            .collect();
        let all = typed(&parse(words.iter().map(OsString::from))?)?;
        Ok(Options {
            action: match (now.status, now.remove) {
                (true, _) => Action::Status,
                (_, true) => Action::Remove,
                _ => Action::SetUp,
            },
            dry_run: now.dry_run,
            way: way(&all),
            addresses,
            ui_port: all.ui_port,
            front_port: all.front_port,
            stats_port: all.stats_port,
            stats_from: all.stats_from,
            router_id: all.router_id,
            interface: all.interface,
            words,
        })
    }
}

/// The first lines of a configuration, from which the next run takes these arguments.
pub fn memory(arguments: &str) -> String {
    format!("{MEMORY}{arguments}\n{MEMORY_NOTE}\n")
}

fn way(arguments: &Arguments) -> Way {
    match (arguments.without_haproxy, arguments.haproxy_only) {
        (true, _) => Way::Keepalived,
        (_, true) => Way::HaproxyOnly,
        _ => Way::Haproxy,
    }
}

fn names_way(arguments: &Arguments) -> bool {
    arguments.without_haproxy || arguments.haproxy_only
}

fn other_way(way: Way) -> String {
    let had = match way {
        Way::Haproxy => "HAProxy and a VIP",
        Way::Keepalived => "--without-haproxy",
        Way::HaproxyOnly => "--haproxy-only",
    };
    format!("the last run had {had}, and this one would not. Run --remove first, on each host that has it")
}

/// clap's own texts for --help; the version here.
fn parse(words: impl Iterator<Item = OsString>) -> Outcome<ArgMatches> {
    let name = OsString::from("cmonhachk-front");
    let matches = Arguments::command().try_get_matches_from([name].into_iter().chain(words));
    let matches = matches.map_err(|error| match error.use_stderr() {
        true => Failure::of_usage(&in_short(&error.to_string())),
        false => error.exit(),
    })?;
    if matches.get_flag("version") {
        println!("cmonhachk {}", env!("CARGO_PKG_VERSION"));
        exit(0);
    }
    Ok(matches)
}

fn in_short(error: &str) -> String {
    error.lines().next().unwrap_or_default().replace("error: ", "")
}

fn typed(matches: &ArgMatches) -> Outcome<Arguments> {
    Arguments::from_arg_matches(matches).map_err(|error| Failure::of_usage(&in_short(&error.to_string())))
}

/// The options of these arguments that the next run takes over, with their values.
fn remembered(matches: &ArgMatches) -> Vec<(String, Option<String>)> {
    let command = Arguments::command();
    let options = command.get_arguments().filter_map(|option| {
        let id = option.get_id().as_str();
        let is_remembered = !OF_ONE_RUN.contains(&id) && matches.value_source(id) == Some(ValueSource::CommandLine);
        let name = format!("--{}", option.get_long()?);
        let value = option.get_action().takes_values().then(|| {
            let mut values = matches.get_raw(id).into_iter().flatten();
            values.next().unwrap_or_default().to_string_lossy().into_owned()
        });
        is_remembered.then_some((name, value))
    });
    options.collect()
}

/// The arguments in the first line of this file.
fn last(file: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().next()?.strip_prefix(MEMORY)?;
    Some(line.to_string())
}

/// The words of the last run that this version knows. Another version, after which this one was installed again, may
/// have had options that this one has not. What follows such an option is its value, unless it is an address.
fn known(line: &str) -> Vec<String> {
    let command = Arguments::command();
    let mut is_unknown = false;
    let words = line.split_whitespace().filter(|word| {
        let follows_unknown = is_unknown;
        is_unknown = false;
        let Some(name) = word.strip_prefix("--") else {
            return !follows_unknown || word.parse::<IpAddr>().is_ok();
        };
        is_unknown = !command.get_arguments().any(|option| option.get_long() == Some(name));
        if is_unknown {
            eprintln!("cmonhachk-front: this version has no {word}, which the last run had. It goes on without.");
        }
        !is_unknown
    });
    words.map(str::to_string).collect()
}

fn address(word: &str) -> Result<IpAddr, String> {
    if let Ok(address) = word.parse() {
        return Ok(address);
    }
    let is_address = |part: &str| part.parse::<IpAddr>().is_ok();
    match word.split_once('/') {
        Some((part, _)) if is_address(part) => Err(format!("give the address without its mask: {part}")),
        _ => Err("it is no IPv4 or IPv6 address, and names are not supported".to_string()),
    }
}

fn port(word: &str) -> Result<u16, String> {
    let port = word.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| "it needs a number from 1 to 65535".to_string())
}

fn router_id(word: &str) -> Result<u8, String> {
    let id = word.parse().ok().filter(|id| *id > 0);
    id.ok_or_else(|| "it needs a number from 1 to 255".to_string())
}

fn interface(word: &str) -> Result<String, String> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "._@-:".contains(letter);
    match !word.is_empty() && !word.starts_with('-') && word.chars().all(is_name) {
        true => Ok(word.to_string()),
        false => Err("it is no name of an interface".to_string()),
    }
}

fn networks(words: &str) -> Result<String, String> {
    for word in words.split(',') {
        let (address, length) = word.split_once('/').unwrap_or((word, "0"));
        let longest = match address.parse() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return Err(format!("{word} is no address and no network")),
        };
        if length.parse::<u8>().is_ok_and(|length| length <= longest) {
            continue;
        }
        return Err(format!(
            "{word} is no network: after the slash comes a number up to {longest}"
        ));
    }
    Ok(words.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &str, last: Option<&str>) -> Outcome<Options> {
        Options::of(&parse(given.split_whitespace().map(OsString::from))?, last)
    }

    fn words(given: &str, last: Option<&str>) -> String {
        of(given, last).unwrap().words.join(" ")
    }

    const SITE: &str = "10.0.0.130 10.0.0.101 10.0.0.102";

    #[test]
    fn each_option_that_stays_is_taken_over_by_the_next_run() {
        let command = Arguments::command();
        for option in command.get_arguments() {
            let id = option.get_id().as_str();
            if OF_ONE_RUN.contains(&id) {
                continue;
            }
            let name = option.get_long().unwrap();
            let given = match option.get_action().takes_values() {
                true => format!("--{name} {}", if name == "interface" { "eth7" } else { "7" }),
                false => format!("--{name}"),
            };
            let given = if name == "stats-from" {
                "--stats-from 10.9.0.0/16".to_string()
            } else {
                given
            };
            assert_eq!(words("", Some(&format!("{given} {SITE}"))), given);
        }
    }

    #[test]
    fn what_is_given_counts_more_than_what_the_last_run_had() {
        let last = format!("--front-port 82 --ui-port 9443 {SITE}");
        let options = of("--front-port 83 fd00::1 FD00::2 fd00::3", Some(&last)).unwrap();
        assert_eq!((options.front_port, options.ui_port), (83, 9443));
        assert_eq!(options.words.join(" "), "--front-port 83 --ui-port 9443");
        assert_eq!(options.addresses[1], "fd00::2".parse::<IpAddr>().unwrap());
        assert_eq!(of("--status", Some(&last)).unwrap().addresses.len(), 3);
    }

    #[test]
    fn what_another_version_remembered_is_left_out() {
        let last = format!("--weight 7 --ui-port 9443 --loud {SITE}");
        let options = of("", Some(&last)).unwrap();
        assert_eq!(options.words.join(" "), "--ui-port 9443");
        assert_eq!(options.addresses.len(), 3);
    }

    #[test]
    fn another_way_needs_a_removal() {
        let last = format!("--without-haproxy {SITE}");
        assert_eq!(of("", Some(&last)).unwrap().way, Way::Keepalived);
        assert_eq!(of("--ui-port 1", Some(&last)).unwrap().way, Way::Keepalived);
        assert!(of(SITE, Some(&last)).is_err());
        assert!(of(&format!("--without-haproxy {SITE}"), Some(SITE)).is_err());
        assert!(of("--haproxy-only 10.0.0.1 10.0.0.2", Some(SITE)).is_err());
    }

    #[test]
    fn wrong_values_are_refused() {
        for given in [
            "--front-port 0",
            "--front-port 65536",
            "--router-id 256",
            "--stats-from 10.0.0.0/33",
            "--stats-from host",
            "--interface ",
            "10.0.0.130/24",
            "dead",
            "999",
            "node1",
            "--without-haproxy --haproxy-only",
            "--without-haproxy --front-port 82",
        ] {
            assert!(of(given, None).is_err(), "{given}");
        }
    }
}
