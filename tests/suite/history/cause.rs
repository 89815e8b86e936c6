//! Causes the faults of a plan, and notes when each was on.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::plan::{FIRST, Fault};
use super::record::Recorder;
use super::{NAMES, Span};
use crate::cluster::controllers;
use crate::front::site::Node;

/// The files of a check that may be left in /run/cmonhachk.
pub const STATE: [&str; 3] = ["lock", "lock.reported", "lock.verdict"];

/// What undoes a fault.
pub type Repair<'a> = Box<dyn FnOnce() + 'a>;

/// There is nothing to undo.
pub fn nothing() -> Repair<'static> {
    Box::new(|| {})
}

/// Lets these processes stand still.
pub fn stop(pids: Vec<Pid>) -> Repair<'static> {
    signal(&pids, Signal::SIGSTOP);
    Box::new(move || signal(&pids, Signal::SIGCONT))
}

/// Kills these processes.
pub fn end(pids: Vec<Pid>) -> Repair<'static> {
    signal(&pids, Signal::SIGKILL);
    nothing()
}

fn signal(pids: &[Pid], what: Signal) {
    for pid in pids {
        // Another fault may have killed it.
        let _ = kill(*pid, what);
    }
}

/// Where a run takes place.
pub trait Place: Sync {
    fn nodes(&self) -> &[Node];

    /// Causes a fault, and returns what undoes it.
    fn cause<'a>(&'a self, fault: &'a Fault, recorder: &'a Recorder) -> Repair<'a>;

    /// What should not be there when the run is over, with the number of the node.
    fn left(&self) -> Vec<(usize, String)>;
}

/// Causes the faults, and returns when all are over.
pub fn cause(faults: &[Fault], place: &dyn Place, recorder: &Recorder) {
    let start = Start(Instant::now());
    let views = Mutex::new(Views::new(place.nodes(), recorder));
    let about = |fault: &Fault| (fault.node, fault.about);
    let turns: BTreeMap<_, Mutex<()>> = faults.iter().map(|fault| (about(fault), Mutex::new(()))).collect();
    thread::scope(|scope| {
        for fault in faults {
            start.wait_until(fault.span.0);
            let (views, turns, start) = (&views, &turns, &start);
            scope.spawn(move || {
                if fault.what == "move" {
                    return moves(fault, views, recorder, start);
                }
                // On a busy machine, the one before may not be over yet.
                let _turn = turns[&about(fault)].lock().unwrap();
                let span = one(fault, place, views, recorder, start);
                recorder.add(span, "fault", Some(fault.node), &fault.text());
            });
        }
    });
    views.into_inner().unwrap().end();
}

/// When the run started: what the times of the plan count from.
struct Start(Instant);

impl Start {
    fn wait_until(&self, at: u64) {
        thread::sleep(Duration::from_millis(at).saturating_sub(self.0.elapsed()));
    }
}

/// Causes a fault and undoes it. Returns when it was on.
fn one(fault: &Fault, place: &dyn Place, views: &Mutex<Views<'_>>, recorder: &Recorder, start: &Start) -> Span {
    let from = recorder.now();
    let repair = match fault.about {
        "view" => view(fault, views),
        _ => place.cause(fault, recorder),
    };
    start.wait_until(fault.span.1);
    let before = recorder.now();
    repair();
    // What these are about is well from the first moment of the repair on.
    let is_well_at_once = ["s9s", "maintenance"].iter().any(|what| fault.what.starts_with(what));
    let to = if is_well_at_once { before } else { recorder.now() };
    (from, to)
}

/// What the nodes' lists say.
struct Views<'a> {
    nodes: &'a [Node],
    recorder: &'a Recorder,
    /// Who leads, and since when.
    truth: (usize, u64),
    shown: Vec<View>,
}

#[derive(Clone)]
struct View {
    leader: Option<usize>,
    since: u64,
    /// A fault keeps it so.
    is_held: bool,
}

impl Views<'_> {
    fn new<'a>(nodes: &'a [Node], recorder: &'a Recorder) -> Views<'a> {
        let now = recorder.now();
        let first = View {
            leader: Some(FIRST),
            since: now,
            is_held: false,
        };
        let mut views = Views {
            nodes,
            recorder,
            truth: (FIRST, now),
            shown: vec![first; nodes.len()],
        };
        (0..nodes.len()).for_each(|node| views.show(node, Some(FIRST)));
        views
    }

    /// From now on, the node's list says that this one leads, or nobody.
    fn show(&mut self, node: usize, leader: Option<usize>) {
        let list = controllers(&leader.map_or("nobody".into(), |leader| format!("10.0.0.{}", 101 + leader)));
        let before = self.recorder.now();
        self.nodes[node].put("opt/cluster/controllers", &list);
        // A node leads from the first moment on at which its list may say so, until the last one.
        let at = match leader == Some(node) {
            true => before,
            false => self.recorder.now(),
        };
        self.note(node, at);
        self.shown[node].leader = leader;
        self.shown[node].since = at;
    }

    /// Shows the truth, unless a fault holds the view.
    fn show_truth(&mut self, node: usize) {
        if !self.shown[node].is_held {
            self.show(node, Some(self.truth.0));
        }
    }

    /// Notes what the node's list has said until this moment.
    fn note(&self, node: usize, until: u64) {
        let View { leader, since, .. } = self.shown[node];
        let leader = leader.map_or("none", |leader| NAMES[leader]);
        self.recorder.add((since, until), "view", Some(node), leader);
    }

    /// Notes who has led until this moment.
    fn note_truth(&self, until: u64) {
        let (leader, since) = self.truth;
        self.recorder.add((since, until), "truth", Some(leader), "");
    }

    /// Notes what is so until the run is over.
    fn end(self) {
        (0..self.nodes.len()).for_each(|node| self.note(node, u64::MAX));
        self.note_truth(u64::MAX);
    }
}

/// Holds a node's list as it is, or as the fault says.
fn view<'a>(fault: &'a Fault, views: &'a Mutex<Views<'_>>) -> Repair<'a> {
    let node = fault.node;
    let mut now = views.lock().unwrap();
    now.shown[node].is_held = true;
    match fault.what {
        "view alone" => now.show(node, Some(node)),
        "view none" => now.show(node, None),
        "view frozen" => {}
        what => unreachable!("{what}"),
    }
    Box::new(move || {
        let mut now = views.lock().unwrap();
        now.shown[node].is_held = false;
        now.show_truth(node);
    })
}

/// Moves the leadership. Each node's list tells it at a time of its own.
fn moves(fault: &Fault, views: &Mutex<Views<'_>>, recorder: &Recorder, start: &Start) {
    {
        let mut views = views.lock().unwrap();
        let at = recorder.now();
        views.note_truth(at);
        views.truth = (fault.node, at);
        recorder.add((at, at), "fault", Some(fault.node), &fault.text());
    }
    let mut order: Vec<usize> = (0..views.lock().unwrap().nodes.len()).collect();
    order.sort_by_key(|node| fault.numbers[*node]);
    for node in order {
        start.wait_until(fault.span.0 + fault.numbers[node]);
        // A later move may have overtaken this one: then that is the truth.
        views.lock().unwrap().show_truth(node);
    }
}
