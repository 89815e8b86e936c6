//! The check: the way from the cache to a verdict.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;

use crate::cache::backoff::Pause;
use crate::cache::entry::Entry;
use crate::cache::reported::tell;
use crate::cache::{self, Slot, Turn};
use crate::cluster::evaluate;
use crate::cluster::list;
use crate::cluster::node::{self, BindAddress};
use crate::options::Options;
use crate::os::clock::Moment;
use crate::os::files;
use crate::os::syslog;
use crate::os::watchdog;
use crate::s9s;
use crate::s9s::config;
use crate::s9s::process::Run;
use crate::verdict::reason::{Fault, Reason};
use crate::verdict::{Outcome, Verdict, evidence, verdict};

/// s9s is killed this long before the deadline, or 2/5 of the time left if that is less. Checks that wait for
/// the lock can then still use the verdict, and HAProxy can start its second try sooner.
const RESERVE: Duration = Duration::from_millis(550);

/// What a client is told, and what is left to do once it has its answer.
#[derive(Debug)]
pub struct Checked {
    /// The verdict.
    pub verdict: Verdict,
    /// The row or the error behind it, for the operator.
    pub evidence: String,
    publication: Option<(Slot, Entry)>,
}

impl Checked {
    /// Logs the verdict if clients were told another one before, publishes what this check has found out, and
    /// frees the lock.
    pub fn finish(&mut self, lock_file: &Path) {
        tell(lock_file, self.verdict, &self.evidence);
        if let Some((slot, entry)) = self.publication.take()
            && let Err(error) = slot.publish(&entry)
        {
            syslog::fault(&format!("{error:#}"));
        }
    }
}

/// Reaches a verdict before `deadline`, from the cache or by asking s9s.
pub fn check(options: &Options, deadline: Moment) -> Checked {
    let turn = in_service(options).and_then(|()| cache::turn(options, deadline));
    let (verdict, evidence) = match turn {
        Ok(Turn::Miss(slot)) => return ask(options, slot, deadline),
        Ok(Turn::Hit(verdict)) => (verdict, "the cached verdict".to_string()),
        Err(fault) => {
            let outcome = Err(fault);
            (verdict(&outcome), evidence(&outcome))
        }
    };
    Checked {
        verdict,
        evidence,
        publication: None,
    }
}

/// Asks s9s.
fn ask(options: &Options, slot: Slot, deadline: Moment) -> Checked {
    watchdog::enter("looking at the credentials of s9s, for", &options.lock_file);
    let credentials = config::digest(&slot.boot);
    let from = Moment::now();
    let mut ended = None;
    let outcome = find_out(options, deadline, &mut |step| {
        if let Step::Ran(run) = step {
            ended = Some(run.ended);
        }
    });
    let verdict = verdict(&outcome);
    let before = slot.before.as_ref().map(|entry| (entry.verdict, entry.pause));
    let pause = Pause::after(verdict, ended, credentials, before, options.backoff);
    let mut evidence = evidence(&outcome);
    if !pause.span.is_zero() {
        evidence = format!("s9s is not run again for {} s: {evidence}", pause.span.as_secs_f64());
    }
    let entry = Entry {
        key: slot.key,
        from,
        pause,
        verdict,
    };
    Checked {
        verdict,
        evidence,
        publication: Some((slot, entry)),
    }
}

/// A step of [`find_out`], for a person who follows it.
pub enum Step<'a> {
    /// There is no maintenance, so the check goes on.
    Begins,
    /// The entries that name this node, and the addresses of this machine's interfaces.
    Node(&'a [BindAddress], &'a [IpAddr]),
    /// This client is about to be run.
    Runs(&'a Path),
    /// The run of s9s.
    Ran(&'a Run),
}

/// Finds the outcome without the cache: from the defaults file and the list. Tells `follow` each step.
pub fn find_out(options: &Options, deadline: Moment, follow: &mut dyn FnMut(Step<'_>)) -> Outcome {
    let left = deadline.left();
    let deadline = Moment::now() + left.saturating_sub(RESERVE.min(left * 2 / 5));
    in_service(options)?;
    follow(Step::Begins);
    let mut names = who_this_node_is(options)?;
    // --node is not questioned: behind NAT or in a container, no interface has the address in the list.
    let interfaces = match files::interface_addresses() {
        Err(_) if options.node.is_some() && !names.contains(&BindAddress::Wildcard) => Vec::new(),
        interfaces => interfaces?,
    };
    follow(Step::Node(&names, &interfaces));
    if options.node.is_none() {
        names = node::of_this_machine(&names, &interfaces)?;
    }
    let program = s9s::find(&options.s9s)?;
    follow(Step::Runs(&program));
    watchdog::enter("running", &program);
    let run = s9s::run(&program, deadline)?;
    follow(Step::Ran(&run));
    let text = list::plain(s9s::output(&program, &run)?);
    let rows = list::parse(&text)
        .map_err(|error| Reason::ListUnreadable.because(error.context("what s9s printed is no controller list")))?;
    evaluate(&names, &interfaces, &rows)
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
    let text = files::read_file(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    Err(Reason::Maintenance.because(anyhow!("{} says: {}", file.display(), text.trim())))
}

/// The entries of `--node`, which outranks the file, or of `RPC_BIND_ADDRESSES`.
fn who_this_node_is(options: &Options) -> Result<Vec<BindAddress>, Fault> {
    let path = &options.cmon_defaults;
    watchdog::enter("reading", path);
    let text = files::read_file(path);
    if text.as_ref().is_ok_and(|text| node::is_in_a_pool(text)) {
        return Err(Reason::ControllerPool.because(anyhow!("EXTRA_OPTS in {} has --pool", path.display())));
    }
    if let Some(node) = &options.node {
        return node::list(node.as_bytes(), "--node");
    }
    let text = text.map_err(|error| {
        let reason = match files::is_missing(&error) {
            true => Reason::DefaultsMissing,
            false => Reason::DefaultsUnreadable,
        };
        reason.because(anyhow!(error).context(format!("cannot read {}", path.display())))
    })?;
    node::bind_addresses(&text)
}
