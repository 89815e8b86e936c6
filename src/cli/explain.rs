//! The check's story for a person: what is read, run, matched and concluded, each line as soon as it is known.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Uid, User};

use crate::cache;
use crate::cache::reported;
use crate::check::{Step, find_out};
use crate::cli::print;
use crate::cluster::list;
use crate::cluster::node::BindAddress;
use crate::options::Options;
use crate::os::clock::Moment;
use crate::os::files::is_missing;
use crate::os::syslog::clean;
use crate::os::watchdog;
use crate::s9s::config;
use crate::s9s::process::Run;
use crate::s9s::{ARGUMENTS, ending};
use crate::verdict::reason::Reason;
use crate::verdict::{Role, Verdict, verdict};

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
pub fn explain(options: &Options, deadline: Moment) -> Verdict {
    let (told, is_recent) = service(options);
    let outcome = find_out(options, deadline, &mut |step| match step {
        Step::Begins => {
            say!("Who this node is");
            match options.node {
                Some(_) => say!("  --node:"),
                None => say!("  RPC_BIND_ADDRESSES in {}:", options.cmon_defaults.display()),
            }
        }
        Step::Node(entries, ours) => {
            entries.iter().for_each(|entry| say!("    {}", describe(entry, ours)));
            watchdog::enter("looking at", Path::new("the files that s9s reads"));
            tell_inputs();
        }
        Step::Runs(program) => {
            say!("What s9s says");
            say!("  {} {}", program.display(), ARGUMENTS.join(" "));
        }
        Step::Ran(run) => lines(run).iter().for_each(|line| say!("  {line}")),
    });
    say!("What that means");
    let verdict = verdict(&outcome);
    match &outcome {
        Ok((_, row)) => {
            say!("  this node's row:");
            say!("    {}", row);
        }
        Err(fault) => say!("  {:#}", fault.detail),
    }
    say!("  verdict: {}", verdict.words());
    // What is not published, such as a maintenance, has no age; this check has just found the same.
    match told.filter(|told| is_recent || (*told == verdict && verdict != LEADER)) {
        Some(LEADER) => say!("  HAProxy is told 200: users are sent to this node."),
        Some(_) => say!("  HAProxy is told 503: no users are sent to this node."),
        None => {
            say!("  The service was not asked just now: curl -i http://127.0.0.1:9201/ shows what HAProxy is told.")
        }
    }
    if let Verdict::Unknown(reason) = verdict {
        advise(reason);
    }
    verdict
}

/// Tells what the reason means, and what to do.
fn advise(reason: Reason) {
    say!("  {}", reason.meaning());
    say!("What to do");
    reason.advice().lines().for_each(|line| say!("  {line}"));
}

/// Tells why the check could not be ended.
pub fn conclude(reason: Reason, doing: &str) {
    say!("What that means");
    say!("  {doing}");
    say!("  verdict: {}", Verdict::Unknown(reason).words());
    advise(reason);
}

/// Tells what the service has cached. Returns what it answers, and whether that is known to be so now.
fn service(options: &Options) -> (Option<Verdict>, bool) {
    let lock_file = &options.lock_file;
    watchdog::enter("reading the verdict beside", lock_file);
    say!("What the service answers");
    say!("  lock file {}", lock_file.display());
    let folder = fs::metadata(cache::folder(lock_file));
    let owner = folder.map(|folder| Uid::from_raw(folder.uid())).ok();
    let is_ours = owner == Some(Uid::effective());
    // Root can believe the files of the user that the folder belongs to.
    let owner = owner.filter(|_| Uid::effective().is_root());
    match cache::open(lock_file, false) {
        Err(why) if why.root_cause().downcast_ref().is_some_and(is_missing) => {
            say!("  not there; the service's first check makes it, if it may");
        }
        Err(why) if is_ours || owner.is_none() => {
            say!("  it cannot be used: {why:#}");
            return (is_ours.then_some(Verdict::Unknown(Reason::LockUnusable)), true);
        }
        _ => {}
    }
    let mut is_recent = false;
    let entry = cache::entry(lock_file, owner).and_then(|entry| Some((entry.from.age()?, entry)));
    if let Some((age, entry)) = entry {
        say!("  cached: {}, {:.1} s old", entry.verdict.words(), age.as_secs_f64());
        let pause = match entry.pause.survivor {
            Some(survivor) if survivor.is_there() => Some(format!("while process {} is there", survivor.pid)),
            Some(_) => None,
            None => cache::pause_left(&entry, options.backoff)
                .map(|left| format!("for another {} s, unless its credentials change", left.as_secs())),
        };
        is_recent = pause.is_some() || age < options.max_age + options.timeout;
        pause.iter().for_each(|pause| say!("  a pause: s9s is not run {pause}"));
    }
    let told = reported::last(lock_file, owner);
    say!(
        "  its clients were told last: {}",
        told.map_or("nothing".to_string(), Verdict::words)
    );
    (told, is_recent)
}

fn tell_inputs() {
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
