//! Records a run: all that clients see while the faults of a plan are caused.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::cause::{Place, cause};
use super::judge::judge;
use super::plan::Fault;
use super::{History, Span};
use crate::cluster::{AtEnd, project};
use crate::pauses::Pauses;

/// Where all note what they see.
pub struct Recorder {
    history: Mutex<History>,
    /// In milliseconds since boot.
    start: u64,
}

/// Milliseconds since boot.
fn since_boot() -> u64 {
    let now: Duration = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap().into();
    now.as_millis() as u64
}

impl Recorder {
    fn new() -> Recorder {
        Recorder {
            history: Mutex::default(),
            start: since_boot(),
        }
    }

    /// Milliseconds since the start of the run.
    pub fn now(&self) -> u64 {
        since_boot() - self.start
    }

    /// The same for another moment, in milliseconds since boot; None if it was before the start.
    pub fn at(&self, since_boot: u64) -> Option<u64> {
        since_boot.checked_sub(self.start)
    }

    pub fn add(&self, span: Span, kind: &str, node: Option<usize>, text: &str) {
        self.history.lock().unwrap().add(span, kind, node, text);
    }

    /// Notes something that is so at this moment.
    pub fn add_now(&self, kind: &str, node: Option<usize>, text: &str) {
        let now = self.now();
        self.add((now, now), kind, node, text);
    }
}

/// Causes the faults in this place while `clients` notes what clients see, until the flag says that the run is over.
/// The run goes on for a `rest` after the last fault. Then `afterwards` notes what only the place knows.
pub fn record(
    place: &dyn Place,
    faults: &[Fault],
    rest: impl FnOnce(),
    clients: impl FnOnce(&Recorder, &AtomicBool) + Send,
    afterwards: impl FnOnce(&Recorder),
) -> History {
    let (recorder, pauses, over) = (Recorder::new(), Pauses::watch(), AtomicBool::new(false));
    let (origin, origin_at) = (Instant::now(), recorder.now());
    thread::scope(|scope| {
        let _over = AtEnd(&over);
        scope.spawn(|| clients(&recorder, &over));
        cause(faults, place, &recorder);
        recorder.add_now("end", None, "");
        rest();
    });
    for (from, to) in pauses.seen() {
        let at = |moment: Instant| origin_at + moment.saturating_duration_since(origin).as_millis() as u64;
        recorder.add((at(from), at(to)), "pause", None, "");
    }
    afterwards(&recorder);
    for (node, left) in place.left() {
        recorder.add_now("left", Some(node), &left);
    }
    let last = recorder.now();
    let mut history = recorder.history.into_inner().unwrap();
    for entry in &mut history.0 {
        entry.span.1 = entry.span.1.min(last);
    }
    history.0.sort_by_key(|entry| entry.span);
    history
}

/// Does something with this time between the beginnings, until it is over.
pub fn every(period: Duration, over: &AtomicBool, mut act: impl FnMut()) {
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        act();
        thread::sleep(period.saturating_sub(start.elapsed()));
    }
}

/// Keeps the history in target/history, and judges it. Returns the number of violations.
pub fn keep_and_judge(name: &str, history: &History) -> usize {
    let folder = project().join("target/history");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{name}.tsv"));
    fs::write(&file, history.text()).unwrap();
    report(&file.display().to_string(), history)
}

/// Prints the judgement, and returns the number of violations.
pub fn report(name: &str, history: &History) -> usize {
    let judgement = judge(history);
    let mut reported = [0; 7];
    for (rule, why) in &judgement.violations {
        reported[usize::from(*rule)] += 1;
        // The first ones of each rule are enough.
        if reported[usize::from(*rule)] <= 5 {
            println!("rule {rule}: {why}");
        }
    }
    let last = history.0.iter().map(|entry| entry.span.1).max().unwrap_or_default();
    let count = |kind| history.of(kind).count();
    println!(
        "{name}: {:.1} minutes, {} connections ({} without an excuse), {} checks, {} runs of s9s, {} faults, {} pauses: {} violations",
        last as f64 / 60_000.,
        count("user"),
        judgement.users,
        count("check"),
        count("login"),
        count("fault"),
        count("pause"),
        judgement.violations.len()
    );
    judgement.violations.len()
}
