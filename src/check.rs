//! The check: the way from a question to a verdict. Only this file knows the order of the steps.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;

use crate::cache::entry::Entry;
use crate::cache::{Lease, LookUp, Store, log_change};
use crate::cluster::node::{BindAddress, Node};
use crate::cluster::{evaluate, list, node};
use crate::options::Options;
use crate::os::clock::Instant;
use crate::os::files::{is_missing, read_file};
use crate::os::{interfaces, syslog, watchdog};
use crate::s9s;
use crate::s9s::process::Run;
use crate::verdict::reason::{Fault, Reason};
use crate::verdict::{Measured, Outcome, Verdict, detail};

/// s9s is killed this long before the deadline, or after 3/5 of the time that is left, whichever is later. Checks
/// that wait for its verdict can then still use it, and HAProxy can start its second try sooner.
const RESERVE: Duration = Duration::from_millis(550);

/// What is reported to a client, and what is left to do once it has its response.
#[derive(Debug)]
pub struct Checked<'a> {
    options: &'a Options,
    store: Option<Store<'a>>,
    verdict: Verdict,
    detail: String,
    /// The entry with this verdict, from the cache or to be published. A fault before s9s has none.
    entry: Option<Entry>,
    /// For the check that publishes the entry.
    lease: Option<Lease>,
}

impl<'a> Checked<'a> {
    fn of_fault(options: &'a Options, store: Option<Store<'a>>, fault: Fault) -> Checked<'a> {
        let outcome = Err(fault);
        Checked {
            options,
            store,
            verdict: Verdict::of(&outcome),
            detail: detail(&outcome),
            entry: None,
            lease: None,
        }
    }

    /// What the client is told now. After the deadline, a role from the list is not used: the process may have been
    /// stopped (SIGSTOP, a paused machine), so the list may be old.
    pub fn verdict_before(&mut self, deadline: Instant) -> Verdict {
        if matches!(self.verdict, Verdict::Known(_)) && deadline.has_passed() {
            self.verdict = Verdict::Unknown(Reason::Stuck);
            self.detail = "the check was stopped until its deadline had passed".to_string();
        }
        self.verdict
    }

    /// What is known of the run of s9s behind the verdict. It may read a file in /proc.
    pub fn measured(&self) -> Measured {
        let measured = match (&self.store, &self.entry) {
            (Some(store), Some(entry)) => store.measured(entry),
            _ => Measured::default(),
        };
        Measured {
            limit: Some(time_for_s9s(self.options.timeout)),
            ..measured
        }
    }

    /// Logs the verdict if another one was reported before, publishes what this check has found out, and frees the
    /// lock.
    pub fn finish(&mut self) {
        match &self.store {
            Some(store) => store.report(self.verdict, &self.detail),
            None => log_change(None, self.verdict, &self.detail),
        }
        if let (Some(lease), Some(entry)) = (self.lease.take(), &self.entry)
            && let Err(error) = lease.publish(entry)
        {
            syslog::fault(&format!("{error:#}"));
        }
    }
}

/// Reaches a verdict before `deadline`, from the cache or by asking s9s.
pub fn check(options: &Options, deadline: Instant) -> Checked<'_> {
    let in_service = in_service(options);
    let store = match Store::open(options) {
        Ok(store) => store,
        Err(fault) => return Checked::of_fault(options, None, in_service.err().unwrap_or(fault)),
    };
    match in_service.and_then(|()| store.look_up(deadline)) {
        Ok(LookUp::Hit(entry)) => Checked {
            options,
            store: Some(store),
            verdict: entry.verdict,
            detail: "the cached verdict".to_string(),
            entry: Some(entry),
            lease: None,
        },
        Ok(LookUp::Miss(lease)) => ask(options, store, lease, deadline),
        Err(fault) => Checked::of_fault(options, Some(store), fault),
    }
}

/// Asks s9s.
fn ask<'a>(options: &'a Options, store: Store<'a>, lease: Lease, deadline: Instant) -> Checked<'a> {
    let from = Instant::now();
    let Finding { outcome, seen } = find(options, deadline);
    let verdict = Verdict::of(&outcome);
    let entry = lease.entry(from, verdict, seen.run.as_ref());

    let span = entry.back_off.span;
    let detail = match span.is_zero() {
        true => detail(&outcome),
        false => format!(
            "s9s is not run again for {} s: {}",
            span.as_secs_f64(),
            detail(&outcome)
        ),
    };
    Checked {
        options,
        store: Some(store),
        verdict,
        detail,
        entry: Some(entry),
        lease: Some(lease),
    }
}

/// What a check without the cache has found out.
#[derive(Debug)]
pub struct Finding {
    /// The outcome.
    pub outcome: Outcome,
    /// What led to it.
    pub seen: Seen,
}

/// What a check has seen, as far as it came.
#[derive(Debug, Default)]
pub struct Seen {
    entries: Vec<BindAddress>,
    interfaces: Vec<IpAddr>,
    program: Option<PathBuf>,
    run: Option<Run>,
}

/// A step of a check for a person: its title, and its lines. They can hold any text: clean them before they are shown.
pub type Step = (&'static str, Vec<String>);

impl Seen {
    /// The steps of the check, as far as it came.
    pub fn steps(&self, options: &Options) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.entries.is_empty() {
            steps.push(("Who this node is", self.describe_node(options)));
            watchdog::enter("looking at", Path::new("the files that s9s reads"));
            steps.push(("What s9s reads", s9s::config::describe()));
        }
        if let Some(program) = &self.program {
            let command = format!("{} {}", program.display(), s9s::ARGUMENTS.join(" "));
            let run = self.run.iter().flat_map(s9s::printed::describe);
            steps.push(("What s9s says", [command].into_iter().chain(run).collect()));
        }
        steps
    }

    fn describe_node(&self, options: &Options) -> Vec<String> {
        let origin = match options.node {
            Some(_) => "--node:".to_string(),
            None => format!("RPC_BIND_ADDRESSES in {}:", options.cmon_defaults.display()),
        };
        let entries = self.entries.iter().map(|entry| node::describe(entry, &self.interfaces));
        [origin]
            .into_iter()
            .chain(entries.map(|entry| format!("  {entry}")))
            .collect()
    }
}

/// Finds the outcome without the cache.
pub fn find_out(options: &Options, deadline: Instant) -> Finding {
    match in_service(options) {
        Ok(()) => find(options, deadline),
        Err(fault) => Finding {
            outcome: Err(fault),
            seen: Seen::default(),
        },
    }
}

fn find(options: &Options, deadline: Instant) -> Finding {
    let mut seen = Seen::default();
    let outcome = seek(options, deadline, &mut seen);
    Finding { outcome, seen }
}

/// The steps, each of which is recorded in `seen`.
fn seek(options: &Options, deadline: Instant, seen: &mut Seen) -> Outcome {
    let deadline = Instant::now() + time_for_s9s(deadline.left());

    let node = this_node(options, seen)?;
    let program = seen.program.insert(s9s::find(&options.s9s)?);
    watchdog::enter("running", program);
    let run = seen.run.insert(s9s::run(program, deadline)?);
    let text = s9s::output(program, run)?;
    let rows = list::parse(&text)
        .map_err(|error| Reason::ListUnreadable.because(error.context("what s9s printed is no controller list")))?;
    evaluate(&node, &rows)
}

/// How long s9s may take in a check that has this time left.
fn time_for_s9s(left: Duration) -> Duration {
    left - RESERVE.min(left * 2 / 5)
}

/// # Errors
/// [`Reason::Maintenance`] where the maintenance file is there, with its text.
fn in_service(options: &Options) -> Result<(), Fault> {
    let file = &options.maintenance;
    watchdog::enter("looking at", file);
    if fs::symlink_metadata(file).is_err() {
        return Ok(());
    }
    // The text is only for people. A file that the service's user may not read counts, too.
    let text = read_file(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    Err(Reason::Maintenance.because(anyhow!("{} says: {}", file.display(), text.trim())))
}

/// Who this node is: by `--node`, which outranks the file, or by `RPC_BIND_ADDRESSES`.
fn this_node(options: &Options, seen: &mut Seen) -> Result<Node, Fault> {
    let text = read_defaults(&options.cmon_defaults);
    if text.as_ref().is_ok_and(|text| node::is_in_a_pool(text)) {
        let file = options.cmon_defaults.display();
        return Err(Reason::ControllerPool.because(anyhow!("EXTRA_OPTS in {file} has --pool")));
    }
    seen.entries = match &options.node {
        Some(list) => node::given(list)?,
        None => node::bind_addresses(&text?)?,
    };

    let has_wildcard = seen.entries.contains(&BindAddress::Wildcard);
    seen.interfaces = match interfaces::addresses() {
        Ok(addresses) => addresses,
        Err(_) if options.node.is_some() && !has_wildcard => Vec::new(),
        Err(errno) => {
            let error = anyhow!(errno).context("cannot list the interfaces' addresses");
            return Err(Reason::InterfacesUnreadable.because(error));
        }
    };
    match options.node {
        Some(_) => Ok(Node::as_given(seen.entries.clone(), seen.interfaces.clone())),
        None => Node::of_this_machine(&seen.entries, seen.interfaces.clone()),
    }
}

fn read_defaults(path: &Path) -> Result<Vec<u8>, Fault> {
    watchdog::enter("reading", path);
    read_file(path).map_err(|error| {
        let reason = match is_missing(&error) {
            true => Reason::DefaultsMissing,
            false => Reason::DefaultsUnreadable,
        };
        reason.because(anyhow!(error).context(format!("cannot read {}", path.display())))
    })
}
