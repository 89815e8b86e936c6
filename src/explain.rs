//! The check's story for a person: what was read, run, matched and concluded.

use std::env;
use std::net::IpAddr;

use nix::unistd::{Uid, User};

use crate::cache;
use crate::check::{Report, Seen};
use crate::conf;
use crate::defaults::Entry;
use crate::list;
use crate::log::clean;
use crate::machine::{self, is_missing};
use crate::options::Options;
use crate::process::Run;
use crate::s9s::{ARGUMENTS, ending};
use crate::verdict::{Verdict, verdict};

/// The user that the packages run the service as.
const SERVICE_USER: &str = "cmonhachk";

/// The limits of what is shown: bytes of one line, and lines of each output of s9s.
const MAX_LINE: usize = 300;
const MAX_LINES: usize = 40;

/// Tells what `report` holds, in lines for a terminal.
pub fn explain(options: &Options, report: &Report) -> String {
    let mut text = String::new();
    let mut say = |line: &str| {
        text += &clean(line, MAX_LINE);
        text.push('\n');
    };
    say("Cache");
    say(&format!("  lock file {}", options.lock_file.display()));
    match cache::open(&options.lock_file, cache::Missing::IsLeft) {
        Ok(_) => say("  usable; --explain does not use the cache"),
        Err(why) if why.root_cause().downcast_ref().is_some_and(is_missing) => {
            say("  not there; the service's first check makes it, or uses /dev/shm if it cannot");
        }
        Err(why) => say(&format!("  not used: {why:#}")),
    }
    let mut holds = cache::holds(&options.lock_file, options.backoff);
    // The credentials of root are not the service's: root cannot tell whether these have changed.
    if !Uid::effective().is_root() {
        holds.retain(|(entry, _)| entry.hold.is_some_and(|hold| hold.credentials == conf::digest()));
    }
    for (entry, left) in &holds {
        let (verdict, seconds) = (entry.verdict.words(), left.as_secs());
        say(&format!(
            "  {verdict}: s9s is not run for another {seconds} s, unless its credentials or the settings change"
        ));
    }
    if let Err(error) = machine::exists(&options.maintenance) {
        say(&format!(
            "  cannot check whether the maintenance file {} exists: {error}",
            options.maintenance.display()
        ));
    }
    say("Who this node is");
    match options.node {
        Some(_) => say("  --node:"),
        None => say(&format!("  RPC_BIND_ADDRESSES in {}:", options.cmon_defaults.display())),
    }
    if report.seen.entries.is_empty() {
        say("    not known: see the end");
    }
    for entry in &report.seen.entries {
        say(&format!("    {}", describe(entry, &report.seen.interfaces)));
    }
    say("What s9s reads");
    for line in conf::describe() {
        say(&format!("  {line}"));
    }
    if Uid::effective().is_root() && matches!(User::from_name(SERVICE_USER), Ok(Some(_))) {
        let arguments: Vec<_> = env::args_os().skip(1).collect();
        say(&format!(
            "  these are root's files; to check as the service: runuser -u {SERVICE_USER} -- env -i {} {}",
            env::current_exe().unwrap_or_default().display(),
            arguments.join(" ".as_ref()).display()
        ));
    }
    say("What s9s says");
    match &report.seen.run {
        Some(run) => tell_run(&report.seen, run, &mut say),
        None => say("  there is no finished run of s9s"),
    }
    say("What that means");
    match &report.outcome {
        Ok(standing) => {
            say("  this node's row:");
            say(&format!("    {}", standing.row));
        }
        Err(fault) => say(&format!("  {:#}", fault.detail)),
    }
    let verdict = verdict(&report.outcome);
    say(&format!("  verdict: {}", verdict.words()));
    say(match verdict {
        Verdict::Leader if !holds.is_empty() => {
            "  HAProxy is told 200, but 503 as long as the service does not run s9s: see Cache."
        }
        Verdict::Leader => "  HAProxy is told 200: users are sent to this node.",
        Verdict::Follower | Verdict::Unknown(_) => "  HAProxy is told 503: no users are sent to this node.",
    });
    if let Verdict::Unknown(reason) = verdict {
        say(&format!("  {}", reason.meaning()));
        say("What to do");
        say(&format!("  {}", reason.advice()));
    }
    text
}

/// `ours` are this machine's addresses, or none if they are not known.
fn describe(entry: &Entry, ours: &[IpAddr]) -> String {
    match entry {
        Entry::Address(address) if !ours.is_empty() && !ours.contains(address) => {
            format!("{address} (no interface of this machine has it: is the file another node's?)")
        }
        Entry::Address(address) => format!("{address}"),
        Entry::Loopback(address) => format!("{address} (loopback: ignored)"),
        Entry::Name(_) => format!("{entry} (host name)"),
        Entry::Wildcard if ours.is_empty() => format!("{entry} (no interface's address is known)"),
        Entry::Wildcard => {
            let addresses: Vec<_> = ours.iter().map(ToString::to_string).collect();
            format!("{entry}: {}", addresses.join(", "))
        }
    }
}

fn tell_run(seen: &Seen, run: &Run, say: &mut impl FnMut(&str)) {
    say(&format!("  {} {}", seen.program.display(), ARGUMENTS.join(" ")));
    say(&format!("  {}", ending(run)));
    for (name, printed) in [("output", &run.stdout), ("error output", &run.stderr)] {
        let printed = list::plain(printed);
        let printed = String::from_utf8_lossy(&printed);
        let lines: Vec<&str> = printed.lines().collect();
        if !lines.is_empty() {
            say(&format!("  {name}:"));
        }
        for line in lines.iter().take(MAX_LINES) {
            say(&format!("    {line}"));
        }
        if lines.len() > MAX_LINES {
            say(&format!("    … and {} more lines", lines.len() - MAX_LINES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Ended;
    use std::time::Duration;

    fn told(stdout: &str, stderr: &str) -> Vec<String> {
        let run = Run {
            ended: Ended::Exited(0),
            stdout: stdout.into(),
            stderr: stderr.into(),
            took: Duration::from_millis(12),
        };
        let mut lines = Vec::new();
        let seen = Seen {
            program: "/bin/s9s".into(),
            ..Seen::default()
        };
        tell_run(&seen, &run, &mut |line| lines.push(line.to_string()));
        lines
    }

    const RUN: [&str; 2] = [
        "  /bin/s9s controller --list --long",
        "  exited with status 0 after 0.012 s",
    ];

    #[test]
    fn a_stream_is_named_where_it_has_lines() {
        assert_eq!(told("", ""), RUN);
        assert_eq!(told("a\nb\n", "")[2..], ["  output:", "    a", "    b"]);
        assert_eq!(told("", "c")[2..], ["  error output:", "    c"]);
    }

    #[test]
    fn what_is_not_shown_of_a_stream_is_counted() {
        let shown = |count: usize| told(&"x\n".repeat(count), "").split_off(3);
        assert_eq!(shown(39), ["    x"; 39]);
        assert_eq!(shown(40), ["    x"; 40]);
        let more = shown(42);
        assert_eq!(more[..40], ["    x"; 40]);
        assert_eq!(more[40..], ["    … and 2 more lines"]);
    }
}
