//! When the machine itself stood still, or had no time. A busy virtual machine may stop for seconds; a test that
//! measures must not take that for the program's fault.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How much later than asked for a thread may run before that counts as a pause.
const NOTICEABLE: Duration = Duration::from_millis(150);

/// A thread that only looks at the clock, until this is dropped.
pub struct Pauses {
    seen: Arc<Mutex<Vec<(Instant, Instant)>>>,
    over: Arc<AtomicBool>,
    watch: Option<JoinHandle<()>>,
}

impl Pauses {
    pub fn watch() -> Pauses {
        let (seen, over) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (notes, end) = (Arc::clone(&seen), Arc::clone(&over));
        let watch = thread::spawn(move || {
            let mut last = Instant::now();
            while !end.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
                let now = Instant::now();
                if now - last > NOTICEABLE {
                    notes.lock().unwrap().push((last, now));
                }
                last = now;
            }
        });
        Pauses {
            seen,
            over,
            watch: Some(watch),
        }
    }

    /// All pauses so far.
    pub fn seen(&self) -> Vec<(Instant, Instant)> {
        self.seen.lock().unwrap().clone()
    }

    /// How long the machine paused between these moments.
    pub fn between(&self, from: Instant, to: Instant) -> Duration {
        let seen = self.seen.lock().unwrap();
        let inside = seen.iter().filter(|(start, end)| *start <= to && *end >= from);
        inside.map(|(start, end)| *end - *start).sum()
    }

    /// The same from then on until now.
    pub fn since(&self, from: Instant) -> Duration {
        // The watch notes a pause when it is over.
        thread::sleep(Duration::from_millis(20));
        self.between(from, Instant::now())
    }
}

/// Fails if `measure` does, but measures again if the machine paused or was busy meanwhile, a few times.
pub fn unless_paused<E: std::fmt::Debug>(mut measure: impl FnMut() -> Result<(), E>) {
    let pauses = Pauses::watch();
    for attempt in 1.. {
        let (start, before) = (Instant::now(), ProcessorTime::now());
        let Err(error) = measure() else {
            return;
        };
        let (pause, is_busy) = (pauses.since(start), before.was_busy_since());
        assert!(attempt < 5 && (is_busy || !pause.is_zero()), "{error:?}");
        println!("the machine paused for {pause:?}, and busy is {is_busy}: {error:?}");
    }
}

/// The time of all processors since boot, in clock ticks.
#[derive(Clone, Copy)]
pub struct ProcessorTime {
    idle: u64,
    all: u64,
}

impl ProcessorTime {
    pub fn now() -> ProcessorTime {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        // proc(5): user, nice, system, idle, iowait, irq, softirq, steal. Guests' time is part of user and nice.
        let words = stat.lines().next().unwrap().split_whitespace().skip(1).take(8);
        let times: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        ProcessorTime {
            idle: times[3],
            all: times.iter().sum(),
        }
    }

    /// Whether less than a tenth was idle since then. No test with a bound needs so much by itself.
    pub fn was_busy_since(self) -> bool {
        let now = ProcessorTime::now();
        now.idle.saturating_sub(self.idle) * 10 < now.all - self.all
    }
}

impl Drop for Pauses {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.watch.take().unwrap().join();
    }
}
