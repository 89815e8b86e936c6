//! The way to the verdict, for a person: what the service answers, what a check of its own read, ran, matched and
//! concluded.

use std::net::IpAddr;
use std::path::Path;

use nix::unistd::{Uid, User};

use super::print::print;
use crate::cache::{Contents, LeftOfBackOff, LockState, inspect};
use crate::check::{Finding, Seen, find_out};
use crate::cluster::list;
use crate::cluster::node::BindAddress;
use crate::options::Options;
use crate::os::clock::Instant;
use crate::os::text::clean;
use crate::os::watchdog;
use crate::s9s::process::Run;
use crate::s9s::{ARGUMENTS, config, ending};
use crate::verdict::reason::Reason;
use crate::verdict::{Outcome, Role, Verdict};

/// The packages' user.
const SERVICE_USER: &str = "cmonhachk";

/// The limits of what is shown: bytes of one line, and lines of each output of s9s.
const MAX_LINE: usize = 300;
const MAX_LINES: usize = 40;

const LEADER: Verdict = Verdict::Known(Role::Leader);

/// Prints one clean line.
macro_rules! say {
    ($($text:tt)*) => { print(format!("{}\n", clean(&format!($($text)*), MAX_LINE)).as_bytes()) };
}

/// Makes a check of its own, and tells its way. Returns its verdict.
pub(super) fn explain(options: &Options, deadline: Instant) -> Verdict {
    let contents = inspect(options);
    say!("What the service answers");
    say!("  lock file {}", options.lock_file.display());
    tell_contents(&contents);

    let Finding { outcome, seen } = find_out(options, deadline);
    let verdict = Verdict::of(&outcome);
    tell_seen(options, &seen);
    say!("What that means");
    tell_outcome(&outcome);
    say!("  verdict: {}", verdict.words());
    tell_answer_of_service(options, &contents, verdict);
    if let Verdict::Unknown(reason) = verdict {
        advise(reason);
    }
    verdict
}

/// Tells why the check could not be ended.
pub(super) fn conclude(reason: Reason, step: &str) {
    say!("What that means");
    say!("  {step}");
    say!("  verdict: {}", Verdict::Unknown(reason).words());
    advise(reason);
}

/// Tells what the reason means, and what to do.
fn advise(reason: Reason) {
    say!("  {}", reason.meaning());
    say!("What to do");
    reason.advice().lines().for_each(|line| say!("  {line}"));
}

/// Tells what the service has cached.
fn tell_contents(contents: &Contents) {
    match &contents.lock {
        LockState::Usable => {}
        LockState::Missing => say!("  not there; the service's first check makes it, if it may"),
        LockState::OfUser(user) => say!("  its folder belongs to user {user}: the service must run as that user"),
        LockState::Closed(user) => {
            let me = Uid::effective();
            say!("  its folder belongs to user {user}, and user {me} may not look into it");
            return;
        }
        LockState::Unusable(why) => say!("  it cannot be used: {why:#}"),
    }
    if let Some((entry, age)) = &contents.entry {
        say!("  cached: {}, {:.1} s old", entry.verdict.words(), age.as_secs_f64());
    }
    match contents.back_off {
        Some(LeftOfBackOff::Process(pid)) => say!("  back-off: s9s is not run while process {pid} is there"),
        Some(LeftOfBackOff::Time(left)) => say!(
            "  back-off: s9s is not run for another {} s, unless its configuration changes",
            left.as_secs()
        ),
        None => {}
    }
    let reported = contents.reported.map_or("nothing".to_string(), Verdict::words);
    say!("  reported to its clients last: {reported}");
}

/// Tells what HAProxy is told, if that is known.
fn tell_answer_of_service(options: &Options, contents: &Contents, verdict: Verdict) {
    let is_recent = contents.back_off.is_some()
        || contents
            .entry
            .as_ref()
            .is_some_and(|(_, age)| *age < options.max_age + options.timeout);
    let told = match contents.lock {
        LockState::Unusable(_) => Some(Verdict::Unknown(Reason::LockUnusable)),
        // Maintenance is not cached, so it has no age. Trust it if this check finds it, too.
        _ => contents
            .reported
            .filter(|reported| is_recent || (*reported == verdict && verdict != LEADER)),
    };
    match told {
        Some(LEADER) => say!("  HAProxy is told 200: users are sent to this node."),
        Some(_) => say!("  HAProxy is told 503: no users are sent to this node."),
        None => {
            say!("  The service was not asked just now: curl -i http://127.0.0.1:9201/ shows what HAProxy is told.")
        }
    }
}

/// Tells what the check has seen, as far as it came.
fn tell_seen(options: &Options, seen: &Seen) {
    if seen.entries.is_empty() {
        return;
    }
    say!("Who this node is");
    match options.node {
        Some(_) => say!("  --node:"),
        None => say!("  RPC_BIND_ADDRESSES in {}:", options.cmon_defaults.display()),
    }
    for entry in &seen.entries {
        say!("    {}", describe(entry, &seen.interfaces));
    }
    tell_inputs();
    if let Some(program) = &seen.program {
        say!("What s9s says");
        say!("  {} {}", program.display(), ARGUMENTS.join(" "));
    }
    if let Some(run) = &seen.run {
        lines(run).iter().for_each(|line| say!("  {line}"));
    }
}

fn tell_outcome(outcome: &Outcome) {
    match outcome {
        Ok((_, row)) => {
            say!("  this node's row:");
            say!("    {row}");
        }
        Err(fault) => say!("  {:#}", fault.detail),
    }
}

fn tell_inputs() {
    watchdog::enter("looking at", Path::new("the files that s9s reads"));
    say!("What s9s reads");
    config::describe().iter().for_each(|line| say!("  {line}"));
    if Uid::effective().is_root() && matches!(User::from_name(SERVICE_USER), Ok(Some(_))) {
        say!("  these are root's files; to check as the service (add your options):");
        say!("  runuser -u {SERVICE_USER} -- env -i /usr/sbin/cmonhachk --explain");
    }
}

/// `ours` are this machine's addresses.
fn describe(entry: &BindAddress, ours: &[IpAddr]) -> String {
    match entry {
        BindAddress::Address(address) if !ours.contains(address) => {
            format!("{address} (no interface of this machine has it)")
        }
        BindAddress::Loopback(address) => format!("{address} (loopback: ignored)"),
        BindAddress::Name(_) => format!("{entry} (host name)"),
        BindAddress::Wildcard if ours.is_empty() => format!("{entry} (no interface has an address)"),
        BindAddress::Address(address) => address.to_string(),
        BindAddress::Wildcard => {
            let addresses: Vec<_> = ours.iter().map(ToString::to_string).collect();
            format!("{entry}: {}", addresses.join(", "))
        }
    }
}

/// How s9s ended, and what it printed.
fn lines(run: &Run) -> Vec<String> {
    let mut told = vec![ending(run)];
    for (name, printed) in [("output", &run.stdout), ("error output", &run.stderr)] {
        let printed = list::plain(printed);
        let printed = String::from_utf8_lossy(&printed);
        let count = printed.lines().count();
        told.extend((count > 0).then(|| format!("{name}:")));
        told.extend(printed.lines().take(MAX_LINES).map(|line| format!("  {line}")));
        told.extend((count > MAX_LINES).then(|| format!("  … and {} more lines", count - MAX_LINES)));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s9s::process::Ended;
    use std::time::Duration;

    fn told(stdout: &str, stderr: &str) -> Vec<String> {
        let run = Run {
            ended: Ended::Exited(0),
            stdout: stdout.into(),
            stderr: stderr.into(),
            took: Duration::from_millis(12),
        };
        lines(&run)
    }

    #[test]
    fn a_stream_is_named_where_it_has_lines() {
        assert_eq!(told("", ""), ["exited with status 0 after 0.012 s"]);
        assert_eq!(told("a\nb\n", "")[1..], ["output:", "  a", "  b"]);
        assert_eq!(told("", "c")[1..], ["error output:", "  c"]);
    }

    #[test]
    fn what_is_not_shown_of_a_stream_is_counted() {
        let shown = |count: usize| told(&"x\n".repeat(count), "").split_off(2);
        assert_eq!(shown(39), ["  x"; 39]);
        assert_eq!(shown(40), ["  x"; 40]);
        let more = shown(42);
        assert_eq!(more[..40], ["  x"; 40]);
        assert_eq!(more[40..], ["  … and 2 more lines"]);
    }
}
