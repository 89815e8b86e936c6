//! The way to the verdict, for a person: what the service answers, what a check of its own read, ran, matched and
//! concluded.

use nix::unistd::{Uid, User};

use super::print::print;
use crate::cache::{Contents, LeftOfBackOff, LockState, inspect};
use crate::check::{Finding, find_out};
use crate::options::Options;
use crate::os::clock::Instant;
use crate::os::text::clean;
use crate::verdict::reason::Reason;
use crate::verdict::{Outcome, Role, Verdict};

/// The packages' user.
const SERVICE_USER: &str = "cmonhachk";

/// How much of a line is shown, in bytes.
const MAX_LINE: usize = 300;

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
    for (title, lines) in seen.steps(options) {
        say!("{title}");
        lines.iter().for_each(|line| say!("  {line}"));
    }
    say!("What that means");
    tell_outcome(&outcome);
    say!("  verdict: {}", verdict.words());
    tell_answer_of_service(options, &contents, verdict);
    if let Verdict::Unknown(reason) = verdict {
        advise(reason);
    }
    tell_how_to_check_as_the_service();
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
        let took = entry.took.map(|took| format!(", s9s took {:.3} s", took.as_secs_f64()));
        let (words, age) = (entry.verdict.words(), age.as_secs_f64());
        say!("  cached: {words}, {age:.1} s old{}", took.unwrap_or_default());
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

fn tell_outcome(outcome: &Outcome) {
    match outcome {
        Ok((_, row)) => {
            say!("  this node's row:");
            say!("    {row}");
        }
        Err(fault) => say!("  {:#}", fault.detail),
    }
}

/// Root's s9s may read other files than the service's.
fn tell_how_to_check_as_the_service() {
    if Uid::effective().is_root() && matches!(User::from_name(SERVICE_USER), Ok(Some(_))) {
        say!("  this check has read root's files; to check as the service (add your options):");
        say!("  runuser -u {SERVICE_USER} -- env -i /usr/sbin/cmonhachk --explain");
    }
}
