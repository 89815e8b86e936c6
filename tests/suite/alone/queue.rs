//! Checks that arrive on time, not one after the other, while one of them is disturbed: a queue forms at the
//! lock, and it must dissolve.

use std::env;
use std::fs;
use std::io::Read;
use std::net::Shutdown;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{AtEnd, Cluster, Daemon, GET, LEADER, Node, age, binary, parent, receive, requesting, wait_until};
use crate::failover::{DEPLOYED, Site};
use crate::late::{script, with_disk};
use crate::pauses::unless_paused;
use crate::versions::Versions;

/// What happens to the check that runs s9s, a second after it got the lock.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    /// It is killed.
    Kill,
    /// It stands still, for longer than any check lasts.
    Stall,
}

/// The check whose s9s hangs, and since when.
fn holder(cluster: &Cluster) -> Option<(Pid, Duration)> {
    let hangs = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words == b"sleep\x0060\0");
    let s9s = cluster.processes().into_iter().find(hangs)?;
    let check = parent(s9s).filter(|check| *check > 1)?;
    Some((Pid::from_raw(check.cast_signed()), age(s9s)?))
}

/// Waits for a check whose s9s has hung for so long. On a busy machine, the one that is looked at may be gone by
/// then: s9s is killed 0.95 s after its start.
fn holder_after(cluster: &Cluster, time: Duration) -> Pid {
    let mut found = None;
    wait_until("s9s has hung for a while", || {
        found = holder(cluster).filter(|(_, age)| *age >= time);
        found.is_some()
    });
    found.unwrap().0
}

/// Starts a check at each moment of the rate, while `act` is done. Returns each answer, with the time when it
/// was asked for.
fn at_a_rate(per_second: u32, check: impl Fn() -> Command + Sync, act: impl FnOnce()) -> Vec<(Instant, String)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (check, over) = (&check, &over);
        let arrivals = scope.spawn(move || {
            let start = Instant::now();
            let mut clients = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let due = Duration::from_secs(clients.len() as u64) / per_second;
                thread::sleep(due.saturating_sub(start.elapsed()));
                clients.push(scope.spawn(move || {
                    let asked = Instant::now();
                    let mut client = requesting(&mut check(), GET);
                    let mut answer = String::new();
                    // A check that is killed gives none.
                    let _ = client.stream.read_to_string(&mut answer);
                    let _ = client.stream.shutdown(Shutdown::Both);
                    let _ = client.responder.wait();
                    (asked, answer)
                }));
            }
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let end = AtEnd(over);
        act();
        drop(end);
        arrivals.join().unwrap()
    })
}

/// Two seconds after the disturbance, every answer is right again.
fn dissolves(per_second: u32, seconds: f64, disturbance: Disturbance) -> Result<(), String> {
    let cluster = Cluster::new();
    let well = format!("slow {seconds}");
    cluster.behaves(&well);
    let node = cluster.leader();
    let mut disturbed = Instant::now();
    let check = || {
        let mut check = node.command();
        check.env_remove("CMONHACHK_TIMEOUT");
        check
    };
    let answers = at_a_rate(per_second, check, || {
        thread::sleep(Duration::from_secs(2));
        cluster.behaves("hang");
        let check = holder_after(&cluster, Duration::from_millis(850));
        cluster.behaves(&well);
        let signal = |signal| {
            let _ = kill(check, signal);
        };
        match disturbance {
            Disturbance::Kill => signal(Signal::SIGKILL),
            Disturbance::Stall => {
                signal(Signal::SIGSTOP);
                thread::sleep(Duration::from_millis(1750));
                signal(Signal::SIGCONT);
            }
        }
        disturbed = Instant::now();
        thread::sleep(Duration::from_secs(5));
    });
    let late = |asked: &Instant| *asked > disturbed + Duration::from_secs(2);
    let wrong: Vec<_> = answers
        .iter()
        .filter(|(asked, answer)| late(asked) && answer != LEADER)
        .collect();
    let later = answers.iter().filter(|(asked, _)| late(asked)).count();
    assert!(later > per_second as usize, "too few checks to show anything");
    let lost = answers.iter().filter(|(_, answer)| answer != LEADER).count();
    println!(
        "{per_second}/s, s9s takes {seconds} s, {disturbance:?}: {lost} of {} not right",
        answers.len()
    );
    match wrong.first() {
        None => Ok(()),
        Some(first) => Err(format!(
            "{per_second}/s, {seconds} s, {disturbance:?}: {} of {later} wrong: {first:?}",
            wrong.len()
        )),
    }
}

#[test]
fn a_queue_at_the_lock_dissolves_whatever_its_holder_met() {
    use Disturbance::{Kill, Stall};
    // In each group at once, so that the test takes half a minute and not two.
    for group in [
        &[(24, 0.4, Kill), (8, 0.06, Kill), (8, 0.3, Kill), (8, 0.8, Kill)][..],
        &[(24, 0.06, Kill), (24, 0.3, Stall), (8, 0.4, Stall)],
        &[(24, 0.8, Kill), (8, 0.8, Stall), (3, 0.4, Kill)],
    ] {
        unless_paused(|| {
            thread::scope(|scope| {
                let cases: Vec<_> = group
                    .iter()
                    .map(|(rate, seconds, disturbance)| scope.spawn(|| dissolves(*rate, *seconds, *disturbance)))
                    .collect();
                cases.into_iter().try_for_each(|case| case.join().unwrap())
            })
        });
    }
}

#[test]
fn an_s9s_that_cannot_be_killed_leaves_few_processes_and_no_queue() {
    unless_paused(freeze_and_thaw_its_disk);
}

/// The answers that are wrong two seconds after the disk of s9s is well again.
fn freeze_and_thaw_its_disk() -> Result<(), Vec<String>> {
    let cluster = Cluster::new();
    let sim = crate::cluster::simulated_s9s();
    let text = format!(
        "[ ! -e $S9S_SIM/frozen ] || exec touch $S9S_SIM/disk/file\nexec {} \"$@\"",
        sim.display()
    );
    let node = Node {
        s9s: script(&cluster, &text),
        ..cluster.leader()
    };
    let mut sleeper = Command::new("sleep");
    sleeper.arg("600").env("PATH", env::var_os("PATH").unwrap());
    let keeper = Daemon(with_disk(&cluster, &sleeper).spawn().unwrap());
    let inside = |program: &str| {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &keeper.0.id().to_string(), program]);
        command
    };
    let disk = cluster.folder.join("disk/lost+found");
    wait_until("the disk is there", || {
        inside("test").arg("-d").arg(&disk).status().unwrap().success()
    });
    let check = || {
        let check = node.command();
        let mut command = inside(binary());
        command.env_clear();
        for (name, value) in check.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command.env_remove("CMONHACHK_TIMEOUT");
        command
    };
    let mut thawed = Instant::now();
    let answers = at_a_rate(6, check, || {
        thread::sleep(Duration::from_secs(2));
        cluster.folder.write("freeze", "");
        wait_until("the disk is frozen", || cluster.folder.join("frozen").exists());
        // The check that runs s9s is killed, so that nobody publishes how that run ended.
        let is_blocked = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("State:\tD"))
        };
        let blocked = || cluster.processes().into_iter().filter(is_blocked);
        let checks = || blocked().filter_map(parent).find(|pid| *pid > 1);
        wait_until("a check waits for s9s", || checks().is_some());
        thread::sleep(Duration::from_millis(300));
        if let Some(check) = checks() {
            let _ = kill(Pid::from_raw(check.cast_signed()), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_secs(6));
        let left = blocked().count();
        assert!((1..=3).contains(&left), "{left} processes cannot be killed");
        fs::remove_file(cluster.folder.join("frozen")).unwrap();
        cluster.folder.write("thaw", "");
        thawed = Instant::now();
        thread::sleep(Duration::from_secs(5));
    });
    let late = answers
        .iter()
        .filter(|(asked, _)| *asked > thawed + Duration::from_secs(2));
    let late: Vec<String> = late.map(|(_, answer)| answer.clone()).collect();
    assert!(late.len() > 6, "too few checks to show anything");
    match late.iter().all(|answer| answer == LEADER) {
        true => Ok(()),
        false => Err(late),
    }
}

#[test]
fn users_are_on_the_leader_within_three_seconds_after_its_controller_is_well() {
    unless_paused(|| {
        let cluster = Cluster::new();
        cluster.behaves("slow 0.45");
        let site = Site::start(&Versions::usual(), &cluster, DEPLOYED, |configuration| configuration);
        cluster.behaves("hang");
        wait_until("nobody is sent to a node", || site.up().is_empty());
        let check = holder_after(&cluster, Duration::from_millis(600));
        let _ = kill(check, Signal::SIGKILL);
        thread::sleep(Duration::from_secs(2));
        cluster.behaves("slow 0.45");
        let well = Instant::now();
        wait_until("users are on the leader", || {
            site.user_gets().as_deref() == Some("node1")
        });
        let took = well.elapsed();
        println!("users were on the leader {took:?} after its controller was well");
        if took < Duration::from_secs(3) {
            Ok(())
        } else {
            Err(took)
        }
    });
}

#[test]
fn clients_that_come_again_at_once_do_not_keep_the_others_waiting() {
    unless_paused(|| {
        let cluster = Cluster::new();
        // A verdict is too old for newcomers as soon as it is there.
        cluster.behaves("slow 0.4");
        let node = cluster.leader();
        let answers = thread::scope(|scope| {
            let clients: Vec<_> = (0..24)
                .map(|_| {
                    scope.spawn(|| {
                        let (start, mut answers) = (Instant::now(), Vec::new());
                        while start.elapsed() < Duration::from_secs(5) {
                            let mut check = node.command();
                            check.env_remove("CMONHACHK_TIMEOUT").env("CMONHACHK_MAX_AGE", "0.3");
                            let mut client = requesting(&mut check, GET);
                            answers.push(receive(&mut client.stream));
                            let _ = client.stream.shutdown(Shutdown::Both);
                            let _ = client.responder.wait();
                        }
                        answers
                    })
                })
                .collect();
            let answers = clients.into_iter().map(|client| client.join().unwrap());
            answers.collect::<Vec<_>>().concat()
        });
        let wrong: Vec<_> = answers.iter().filter(|answer| *answer != LEADER).collect();
        match wrong.first() {
            None => Ok(()),
            Some(first) => Err(format!("{} of {}: {first}", wrong.len(), answers.len())),
        }
    });
}
