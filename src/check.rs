//! The check: the way from the cache to a verdict.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;

use crate::cache::{self, Missing, Query, Slot, Turn};
use crate::conf;
use crate::deadline::{Deadline, since_boot};
use crate::defaults;
use crate::entry::{Entry, Hold};
use crate::evaluation::evaluate;
use crate::guard::{Guard, Stage};
use crate::key::{Asker, key};
use crate::list;
use crate::log;
use crate::machine;
use crate::options::Options;
use crate::process::Run;
use crate::reason::{Fault, Reason};
use crate::s9s;
use crate::verdict::{Standing, Verdict, verdict};

/// The time that a check has left when s9s is killed, at most 3 tenths. Thus checks that wait for the
/// lock still get the verdict, and HAProxy starts its second try sooner.
const RESERVE: Duration = Duration::from_millis(450);

/// How long s9s is not run after a first refusal, and after a run that cannot be killed.
const FIRST_HOLD: Duration = Duration::from_secs(30);

/// What a check saw. A field is empty if the check did not get that far.
#[derive(Debug, Default)]
pub struct Seen {
    /// The entries of `RPC_BIND_ADDRESSES`.
    pub entries: Vec<defaults::Entry>,
    /// The addresses of this machine's interfaces, as far as they can be read.
    pub interfaces: Vec<IpAddr>,
    /// The client that was run.
    pub program: PathBuf,
    /// The run of s9s.
    pub run: Option<Run>,
}

/// What a check found out by itself.
#[derive(Debug)]
pub struct Report {
    /// What it saw.
    pub seen: Seen,
    /// The result.
    pub outcome: Result<Standing, Fault>,
}

/// Where a verdict is from.
#[derive(Debug)]
pub enum Checked {
    /// From the cache.
    Cached(Verdict),
    /// This check found it out. [`Checked::publish`] gives it to the others.
    Found(Box<Report>, Option<Box<Publication>>),
}

/// A verdict that is to be published once the client has its answer.
#[derive(Debug)]
pub struct Publication {
    slot: Slot,
    /// When the run began, since boot.
    from: Duration,
    /// Whether the run had less time than usual, so that its end by timeout says nothing about s9s.
    hurried: bool,
    hold: Option<Hold>,
    /// Why this user cannot look for the maintenance file.
    blind: Option<io::Error>,
}

impl Checked {
    /// The verdict. After the deadline no list tells a role: the process may have been stopped for a while,
    /// and the list is old.
    pub fn verdict(&self, deadline: Deadline) -> Verdict {
        let verdict = match self {
            Checked::Cached(verdict) => *verdict,
            Checked::Found(report, _) => verdict(&report.outcome),
        };
        match verdict {
            Verdict::Leader | Verdict::Follower if deadline.passed() => Verdict::Unknown(Reason::Stuck),
            verdict => verdict,
        }
    }

    /// Publishes the result of this check, once, and frees the lock. With `logs`, logs a verdict that
    /// differs from the previous one.
    pub fn publish(&mut self, logs: bool) {
        let Checked::Found(report, publication) = self else {
            return;
        };
        let Some(publication) = publication.take() else {
            return;
        };
        let publication = *publication;
        let verdict = verdict(&report.outcome);
        let before = publication.slot.before.as_ref().map(|entry| entry.verdict);
        if publication.hurried && matches!(verdict, Verdict::Unknown(Reason::S9sTimeout | Reason::Stuck)) {
            return;
        }
        let instead = publication.slot.publish(verdict, publication.from, publication.hold);
        if !logs || before == Some(verdict) {
            return;
        }
        log::change(before, &report.outcome);
        let instead = match instead {
            Err(why) => Some(format!("verdicts are not shared: {why:#}")),
            Ok(why) => why.map(|why| format!("verdicts are cached in /dev/shm instead: {why:#}")),
        };
        let blind = publication
            .blind
            .map(|why| format!("cannot check whether the maintenance file exists: {why:#}"));
        [instead, blind].iter().flatten().for_each(|fault| log::fault(fault));
    }
}

/// Reaches a verdict before `deadline`, from the cache or by asking s9s.
pub fn check(options: &Options, asker: Asker, deadline: Deadline, guard: &Guard) -> Checked {
    guard.enter(Stage::Inputs);
    let program = s9s::find(&options.s9s);
    let maintenance = machine::exists(&options.maintenance);
    let query = Query {
        lock_file: &options.lock_file,
        // A folder that root makes by hand would lock the service's user out.
        missing: match asker {
            Asker::Client => Missing::FolderIsMade,
            Asker::Person => Missing::FileIsMade,
        },
        key: key(options, asker, program.as_deref().ok()),
        max_age: options.max_age,
        timeout: options.timeout,
        backoff: options.backoff,
        maintenance: *maintenance.as_ref().unwrap_or(&false),
    };
    let slot = match cache::turn(&query, guard) {
        Turn::Hit(verdict) => return Checked::Cached(verdict),
        Turn::Miss(slot) => Some(slot),
        Turn::Bypass(why) => {
            log::fault(&format!("the check shares nothing: {why:#}"));
            None
        }
    };
    // A check that waited for the lock has less time for s9s than one that did not.
    let hurried = deadline.left() < options.timeout * 3 / 4;
    guard.enter(Stage::Inputs);
    let credentials = conf::digest();
    let from = since_boot();
    let mut report = find_out(options, program, deadline, guard);
    let publication = slot.map(|slot| {
        let hold = hold(&mut report, slot.before.as_ref(), credentials, options.backoff);
        Box::new(Publication {
            slot,
            from,
            hurried,
            hold,
            blind: maintenance.err(),
        })
    });
    if publication.is_none() && asker == Asker::Client {
        log::change(None, &report.outcome);
    }
    Checked::Found(Box::new(report), publication)
}

/// How long s9s must not be run again, at most `backoff`. After a refusal, the time doubles with the next
/// one, so that a wrong password does not get the user suspended.
fn hold(report: &mut Report, before: Option<&Entry>, credentials: u32, backoff: Duration) -> Option<Hold> {
    let fault = report.outcome.as_mut().err()?;
    let before = before.and_then(|entry| entry.hold);
    let before = before.filter(|hold| hold.credentials == credentials);
    if fault.reason == Reason::Maintenance {
        // After the maintenance, the next refusal doubles this span.
        return before;
    }
    let span = match fault.reason {
        reason if reason.is_refusal() => before.map_or(FIRST_HOLD, |hold| hold.span * 2),
        // Each run leaves one more process that cannot be killed. This may be over at any moment.
        Reason::Stuck => FIRST_HOLD,
        _ => return None,
    };
    let span = span.min(backoff);
    if span.is_zero() {
        return None;
    }
    let detail = std::mem::replace(&mut fault.detail, anyhow!(""));
    fault.detail = detail.context(format!("s9s is not run again for {} s", span.as_secs_f64()));
    Some(Hold { span, credentials })
}

/// Finds the verdict without the cache, with this s9s: from the defaults file and the list.
pub fn find_out(options: &Options, program: Result<PathBuf, Fault>, deadline: Deadline, guard: &Guard) -> Report {
    let mut seen = Seen::default();
    let way = || {
        let deadline = deadline.earlier(RESERVE.min(deadline.left() * 3 / 10));
        in_service(&options.maintenance)?;
        guard.enter(Stage::Defaults(options.cmon_defaults.clone()));
        seen.entries = who_this_node_is(options)?;
        seen.interfaces = match machine::interface_addresses() {
            Err(fault) if seen.entries.contains(&defaults::Entry::Wildcard) => return Err(fault),
            addresses => addresses.unwrap_or_default(),
        };
        seen.program = program?;
        guard.enter(Stage::S9s(seen.program.clone()));
        let run = seen.run.insert(s9s::run(&seen.program, deadline)?);
        let text = list::plain(s9s::output(&seen.program, run, &seen.interfaces)?);
        let rows = list::parse(&text)
            .map_err(|error| Reason::ListUnreadable.because(error.context("what s9s printed is no controller list")))?;
        evaluate(&seen.entries, &seen.interfaces, &rows)
    };
    let outcome = way();
    Report { seen, outcome }
}

/// # Errors
/// [`Reason::Maintenance`] where the maintenance file is there, with its text.
fn in_service(maintenance: &Path) -> Result<(), Fault> {
    if !machine::exists(maintenance).unwrap_or(false) {
        return Ok(());
    }
    // The text is only for people. A file that the service's user may not read counts, too.
    let text = machine::read_file(maintenance).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    Err(Reason::Maintenance.because(anyhow!("{} says: {}", maintenance.display(), text.trim())))
}

/// The entries of `--node`, which outranks the file, or of `RPC_BIND_ADDRESSES`.
fn who_this_node_is(options: &Options) -> Result<Vec<defaults::Entry>, Fault> {
    let text = defaults_file(options);
    if text.as_ref().is_ok_and(|text| defaults::is_in_a_pool(text)) {
        let file = options.cmon_defaults.display();
        return Err(Reason::ControllerPool.because(anyhow!("EXTRA_OPTS in {file} has --pool")));
    }
    match &options.node {
        Some(node) => defaults::entries(node.as_bytes(), "--node"),
        None => defaults::bind_addresses(&text?),
    }
}

fn defaults_file(options: &Options) -> Result<Vec<u8>, Fault> {
    let path = &options.cmon_defaults;
    machine::read_file(path).map_err(|error| {
        let reason = match machine::is_missing(&error) {
            true => Reason::DefaultsMissing,
            false => Reason::DefaultsUnreadable,
        };
        reason.because(anyhow!(error).context(format!("cannot read {}", path.display())))
    })
}
