//! A long history: users connect all the time while faults that a seed has drawn overlap, and each answer is
//! judged. tests/history/run.sh runs it alone and says how; `history` has the faults and the rules.
//!
//! `CMONHACHK_HISTORY_SEED`, `_MINUTES` and `_RUNS` (see `scale`) are the first seed, the length of a run, and
//! the number of runs, each with the next seed. With `CMONHACHK_HISTORY_FILE`, a recorded history is judged, and
//! with `CMONHACHK_HISTORY_PART`, two numbers of seconds, only that part of it is drawn.

mod faults;

use std::env;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cmonhachk::os::clock::Instant as SinceBoot;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};

use crate::cluster::{AtEnd, FOLLOWER, GET, LEADER, project, unknown};
use crate::front::site::{Node, SITE, Site, VIRTUAL};
use crate::history::{History, NAMES, judge, picture, plan};
use crate::pauses::Pauses;
use crate::scale::amount;
use crate::versions::{System, Versions, on_each_system};

/// How long after the last fault the run goes on.
const AFTERWARDS: Duration = Duration::from_secs(13);
/// How often each comes: a user, a check of each node, a byte of the session, a look for the address.
const USERS: Duration = Duration::from_millis(60);
const CHECKS: Duration = Duration::from_millis(150);
const SESSION: Duration = Duration::from_millis(200);
const HOLDERS: Duration = Duration::from_millis(40);
/// How long a session lasts, in milliseconds.
const STAY: u64 = 25_000;
/// Longer than any fault.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where all note what they see.
pub struct Recorder {
    history: Mutex<History>,
    start: u64,
}

/// Milliseconds since boot.
fn since_boot() -> u64 {
    SinceBoot::now().0.as_millis() as u64
}

impl Recorder {
    fn new() -> Recorder {
        Recorder {
            history: Mutex::default(),
            start: since_boot(),
        }
    }

    pub fn now(&self) -> u64 {
        since_boot() - self.start
    }

    pub fn add(&self, span: (u64, u64), kind: &str, node: Option<usize>, text: &str) {
        self.history.lock().unwrap().add(span, kind, node, text);
    }
}

on_each_system! {
    whatever_goes_wrong_users_reach_the_leader_soon_and_nobody_who_has_not_led_for_a_while,
}

/// Runs the seeds with an odd number on this system, and the others on Debian 13, unless one was chosen.
fn whatever_goes_wrong_users_reach_the_leader_soon_and_nobody_who_has_not_led_for_a_while(versions: &Versions) {
    if env::var_os("CMONHACHK_HISTORY_FILE").is_some() {
        return;
    }
    let first = amount("CMONHACHK_HISTORY_SEED", 1, 1) as u64;
    let length = amount("CMONHACHK_HISTORY_MINUTES", 1, 3) as u64 * 60_000;
    let seeds = first..first + amount("CMONHACHK_HISTORY_RUNS", 2, 20) as u64;
    let is_ours = |seed: &u64| versions.is_chosen() || (versions.system == System::Here) == (seed % 2 == 1);
    let mut violations = 0;
    for seed in seeds.filter(is_ours) {
        println!("CMONHACHK_HISTORY_SEED={seed} on {}", versions.name());
        let history = run(seed, length - AFTERWARDS.as_millis() as u64, versions);
        let folder = project().join("target/history");
        fs::create_dir_all(&folder).unwrap();
        let name = folder.join(format!("seed-{seed}-{}", versions.name()));
        let name = name.display().to_string();
        fs::write(format!("{name}.tsv"), history.text()).unwrap();
        violations += report(&name, &history);
    }
    assert_eq!(violations, 0, "violations");
}

#[test]
fn a_recorded_history_is_judged() {
    if let Ok(file) = env::var("CMONHACHK_HISTORY_FILE") {
        let history = History::parse(&fs::read_to_string(&file).unwrap());
        assert_eq!(report(file.trim_end_matches(".tsv"), &history), 0, "violations");
    }
}

/// Draws the history, prints the judgement, and returns the number of violations.
fn report(name: &str, history: &History) -> usize {
    let last = history.0.iter().map(|entry| entry.span.1).max().unwrap_or_default();
    let part = env::var("CMONHACHK_HISTORY_PART").ok().map(|part| {
        let at = |second: &str| second.parse::<u64>().expect("a second") * 1000;
        let (from, to) = part.split_once('-').expect("two seconds with a hyphen between");
        (at(from), at(to))
    });
    let part = part.unwrap_or((0, last));
    fs::write(format!("{name}.svg"), picture::picture(history, part)).unwrap();
    let judgement = judge::judge(history);
    let mut told = [0; 7];
    for (rule, why) in &judgement.violations {
        told[usize::from(*rule)] += 1;
        // The first ones of each rule are enough.
        if told[usize::from(*rule)] <= 5 {
            println!("rule {rule}: {why}");
        }
    }
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

fn run(seed: u64, length: u64, versions: &Versions) -> History {
    let site = Site::boot(versions);
    site.nodes.iter().for_each(faults::prepare);
    for node in &site.nodes {
        node.succeeds(SITE);
    }
    let (recorder, pauses, over) = (Recorder::new(), Pauses::watch(), AtomicBool::new(false));
    let (origin, origin_at) = (Instant::now(), recorder.now());
    thread::scope(|scope| {
        let _over = AtEnd(&over);
        let (recorder, over, site) = (&recorder, &over, &site);
        let network = site.network.file();
        scope.spawn({
            let network = fs::File::open(&network).unwrap();
            move || {
                setns(network, CloneFlags::CLONE_NEWNET).unwrap();
                // A thread has the network of the one that has started it.
                scope.spawn(|| every(SESSION, over, || session(recorder, over)));
                every(USERS, over, || {
                    scope.spawn(|| user(recorder));
                });
            }
        });
        for (number, node) in site.nodes.iter().enumerate() {
            let network = node.systemd.network();
            scope.spawn(move || {
                setns(network, CloneFlags::CLONE_NEWNET).unwrap();
                every(CHECKS, over, || check(recorder, number));
            });
        }
        scope.spawn(|| holders(recorder, site, over));
        faults::cause(&plan::plan(seed, length), site, recorder);
        let end = recorder.now();
        recorder.add((end, end), "end", None, "");
        thread::sleep(AFTERWARDS);
    });
    for (from, to) in pauses.seen() {
        let at = |moment: Instant| origin_at + (moment.saturating_duration_since(origin)).as_millis() as u64;
        recorder.add((at(from), at(to)), "pause", None, "");
    }
    for (number, node) in site.nodes.iter().enumerate() {
        faults::logins(&recorder, number, node);
        for left in left(node) {
            recorder.add((recorder.now(), recorder.now()), "left", Some(number), &left);
        }
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
fn every(period: Duration, over: &AtomicBool, mut act: impl FnMut()) {
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        act();
        thread::sleep(period.saturating_sub(start.elapsed()));
    }
}

/// The session of a user, and the node that it is on.
fn visit() -> Result<(TcpStream, usize), String> {
    let address = SocketAddr::new(VIRTUAL.parse().unwrap(), 81);
    let told = |error: std::io::Error| error.kind().to_string();
    let mut session = TcpStream::connect_timeout(&address, Duration::from_secs(3)).map_err(told)?;
    session.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut name = [0; 5];
    session.read_exact(&mut name).map_err(told)?;
    let node = NAMES.iter().position(|node| node.as_bytes() == name);
    Ok((session, node.ok_or("a stranger")?))
}

fn user(recorder: &Recorder) {
    let from = recorder.now();
    let (node, text) = match visit() {
        Ok((_, node)) => (Some(node), "reached".into()),
        Err(error) => (None, error),
    };
    recorder.add((from, recorder.now()), "user", node, &text);
}

/// A session that goes on until it is cut, or the user has stayed long enough, or the run is over.
fn session(recorder: &Recorder, over: &AtomicBool) {
    let Ok((mut session, node)) = visit() else { return };
    let (from, mut ended) = (recorder.now(), "open".to_string());
    session.set_read_timeout(Some(SESSION)).unwrap();
    // A user without an answer gives up, and TCP alone would for minutes.
    setsockopt(&session, TcpUserTimeout, &1000).unwrap();
    while !over.load(Ordering::Relaxed) {
        if recorder.now() > from + STAY {
            ended = "over".into();
            break;
        }
        let sent = session.write(b".").and_then(|_| session.read(&mut [0]));
        match sent {
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => ended = error.kind().to_string(),
            Ok(_) => ended = "closed".into(),
        }
        break;
    }
    recorder.add((from, recorder.now()), "session", Some(node), &ended);
}

/// Asks a node for its verdict, on itself: so what is cut off from the network is seen, too.
fn check(recorder: &Recorder, node: usize) {
    let from = recorder.now();
    let ask = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 9201))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(GET)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    let text = match ask() {
        Ok(answer) if answer == LEADER => "leader".into(),
        Ok(answer) if answer == FOLLOWER => "follower".into(),
        Ok(answer) if answer.is_empty() => "none".into(),
        Ok(answer) => {
            let reason = answer
                .split("Cmonhachk-Reason: ")
                .nth(1)
                .and_then(|rest| rest.lines().next());
            match reason {
                Some(reason) if answer == unknown(reason) => format!("unknown {reason}"),
                _ => format!("malformed {answer:?}"),
            }
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => "none".into(),
        Err(error) => format!("failed: {error}"),
    };
    recorder.add((from, recorder.now()), "check", Some(node), &text);
}

/// Who has the address: from the last look without it until the first one without it again.
fn holders(recorder: &Recorder, site: &Site, over: &AtomicBool) {
    let tables = site
        .nodes
        .iter()
        .map(|node| format!("/proc/{}/net/fib_trie", node.systemd.first_process().unwrap()));
    let tables: Vec<String> = tables.collect();
    let mut since = [None; 3];
    let mut last = [0; 3];
    let mut look = |is_over: bool| {
        for (node, table) in tables.iter().enumerate() {
            let before = std::mem::replace(&mut last[node], recorder.now());
            let has = !is_over && fs::read_to_string(table).unwrap().contains(VIRTUAL);
            let now = recorder.now();
            match (has, since[node]) {
                (true, None) => since[node] = Some(before),
                (false, Some(from)) => {
                    since[node] = None;
                    recorder.add((from, now), "holder", Some(node), "");
                }
                _ => {}
            }
        }
    };
    every(HOLDERS, over, || look(false));
    look(true);
}

/// What should not be on a node after the end.
fn left(node: &Node) -> Vec<String> {
    let mut left: Vec<String> = node
        .run("systemctl list-units --failed --no-legend --plain")
        .lines()
        .map(str::to_string)
        .collect();
    let files = node.run("ls -A /run/cmonhachk");
    let is_known = |file: &&str| ["lock", "lock.reported", "lock.verdict"].contains(file);
    left.extend(
        files
            .lines()
            .filter(|file| !is_known(file))
            .map(|file| format!("/run/cmonhachk/{file}")),
    );
    // Checks come all the time, and each is gone soon.
    let old = "ps -o pid=,etimes=,args= -u cmonhachk | awk '$2 > 5' | grep -v '/usr/sbin/cmonhachk$'";
    left.extend(node.run(old).lines().map(str::to_string));
    let listeners = node.run("pgrep --exact --parent 1 cmonhachk | wc -l");
    if listeners.trim() != "1" {
        left.push(format!("{} listeners", listeners.trim()));
    }
    left
}
