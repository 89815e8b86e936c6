//! Never late, never twice, never in the way: every client gets its answer, whatever blocks or stops.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cmonhachk::cluster::evaluate;
use cmonhachk::cluster::list;
use cmonhachk::cluster::node;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{
    Cluster, GET, LEADER, Node, connect, exits, in_namespaces, once_in_a_while, requesting, unknown, wait_until,
    with_fault,
};
use crate::syslog::{Log, logging};

/// An s9s that is this shell script.
pub fn script(cluster: &Cluster, text: &str) -> PathBuf {
    let path = cluster.folder.write("script", format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

fn status_of(pid: &str) -> String {
    fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default()
}

#[test]
fn a_check_that_was_stopped_past_its_deadline_tells_no_role() {
    let cluster = Cluster::new();
    let sim = crate::cluster::simulated_s9s();
    let pid = cluster.folder.join("pid");
    let s9s = script(
        &cluster,
        &format!(
            "sleep 0.3; kill -STOP $PPID\n{} \"$@\"\necho $$ >{}",
            sim.display(),
            pid.display()
        ),
    );
    let arguments = ["--timeout", "3", "--max-age", "0"];
    let goes_on_late = |check: u32, start: Instant| {
        wait_until("s9s has ended", || {
            let pid = fs::read_to_string(&pid).unwrap_or_default();
            !pid.is_empty() && status_of(&pid).lines().any(|line| line.starts_with("State:\tZ"))
        });
        thread::sleep(Duration::from_millis(3100).saturating_sub(start.elapsed()));
        fs::remove_file(&pid).unwrap();
        kill(Pid::from_raw(check.cast_signed()), Signal::SIGCONT).unwrap();
    };
    // s9s has ended, but it depends on the moment of the stop whether its time was up before.
    let answers = [unknown("stuck"), unknown("s9s-timeout")];
    for (address, request) in [("10.0.0.101", GET), ("10.0.0.102", b"GET /health HTTP/1.0\r\n\r\n")] {
        let node = Node {
            s9s: s9s.clone(),
            ..cluster.node(address)
        };
        let start = Instant::now();
        let mut client = node.connect(&arguments);
        client.send(request);
        goes_on_late(client.responder.id(), start);
        let answer = client.answer();
        assert!(answers.contains(&answer), "{answer}");
    }
    let node = Node {
        s9s,
        ..cluster.leader()
    };
    let start = Instant::now();
    let check = node.command().args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    goes_on_late(check.id(), start);
    let answer = String::from_utf8(check.wait_with_output().unwrap().stdout).unwrap();
    assert!(answers.contains(&answer), "by hand: {answer}");
    assert_eq!(
        cluster.leader().get(&[]),
        LEADER,
        "and leaves nothing wrong to the others"
    );
}

/// Makes every open(2) of this file wait, as an on-access scanner that hangs does.
pub fn scanner_that_hangs(path: &Path) -> Fanotify {
    let flags = InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC;
    let scanner = Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC).unwrap();
    let opens = MaskFlags::FAN_OPEN_PERM;
    scanner
        .mark(MarkFlags::FAN_MARK_ADD, opens, nix::fcntl::AT_FDCWD, Some(path))
        .unwrap();
    scanner
}

#[test]
fn whatever_blocks_the_client_has_its_answer_at_the_deadline_and_the_process_is_gone() {
    for blocked in ["the defaults file", "s9s", "the lock file"] {
        let cluster = Cluster::new();
        let log = Log::open(&cluster);
        let s9s = script(&cluster, "exit 1");
        let node = Node {
            s9s,
            ..cluster.leader()
        };
        fs::write(&node.lock, "").unwrap();
        fs::set_permissions(&node.lock, Permissions::from_mode(0o600)).unwrap();
        let path = match blocked {
            "the defaults file" => &node.defaults,
            "s9s" => &node.s9s,
            _ => &node.lock,
        };
        let scanner = scanner_that_hangs(path);
        let in_time = once_in_a_while(|| {
            let start = Instant::now();
            let client = requesting(&mut logging(&node, &["--timeout", "1.5"]), GET);
            assert_eq!(client.answer(), unknown("stuck"), "{blocked}");
            let took = start.elapsed();
            assert!(took > Duration::from_millis(1600), "{blocked}: {took:?}");
            took < Duration::from_millis(2200)
        });
        assert!(in_time, "{blocked}");
        let lines = log.lines();
        let name = path.to_str().unwrap();
        assert!(
            lines
                .iter()
                .any(|line| line.contains("unknown stuck: no answer in time: still ") && line.contains(name)),
            "{blocked}: {lines:?}"
        );
        wait_until("nothing is left", || cluster.processes().is_empty());
        if path == &node.defaults || path == &node.s9s {
            let command_line = node.command_line(&["--timeout", "0.3"]);
            assert_eq!(
                String::from_utf8(command_line.stdout).unwrap(),
                unknown("stuck"),
                "{blocked}"
            );
            assert_eq!(command_line.status.code(), Some(2));
            // What the service answers, what this check waits for, and what to do.
            let explained = node.command_line(&["--timeout", "0.3", "--explain"]);
            let told = String::from_utf8(explained.stdout).unwrap();
            for part in [
                "What the service answers\n",
                "no answer in time: still ",
                name,
                "verdict: unknown stuck\n",
                "What to do\n",
            ] {
                assert!(told.contains(part), "{part}: {told}");
            }
            assert_eq!(explained.status.code(), Some(2));
        }
        drop(scanner);
    }
}

#[test]
fn the_process_is_gone_though_the_disk_under_the_lock_file_stays_dead() {
    let cluster = Cluster::new();
    let folder = cluster.folder.join("service");
    fs::create_dir(&folder).unwrap();
    let node = Node {
        lock: folder.join("lock"),
        ..cluster.leader()
    };
    assert_eq!(node.get(&[]), LEADER);
    let scanner = scanner_that_hangs(&folder);
    scanner
        .mark(
            MarkFlags::FAN_MARK_ADD,
            MaskFlags::FAN_OPEN_PERM | MaskFlags::FAN_ONDIR | MaskFlags::FAN_EVENT_ON_CHILD,
            nix::fcntl::AT_FDCWD,
            Some(&folder),
        )
        .unwrap();
    let mut client = node.connect(&["--max-age", "0", "--timeout", "1"]);
    client.send(GET);
    assert_eq!(client.receive(), unknown("stuck"));
    wait_until("the process is gone", || client.responder.try_wait().unwrap().is_some());
    drop(scanner);
}

#[test]
fn a_settings_file_that_blocks_delays_no_answer() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    let settings = cluster.folder.write("settings", "CMONHACHK_MAX_AGE=1\n");
    let scanner = scanner_that_hangs(&settings);
    // On the folder, because the machine may not have the file.
    let script = format!(
        "mount -t tmpfs tmpfs /etc/default; ln -s {} /etc/default/cmonhachk; exec \"$@\"",
        settings.display()
    );
    let in_time = once_in_a_while(|| {
        let start = Instant::now();
        let mut client = connect(&mut in_namespaces(&["--mount"], &script, &logging(&node, &[])));
        client.send(GET);
        assert_eq!(client.answer(), unknown("stuck"));
        start.elapsed() < Duration::from_millis(2500)
    });
    assert!(in_time);
    let lines = log.lines();
    assert!(
        lines[0].contains("stuck: no answer in time: still reading /etc/default/cmonhachk"),
        "{lines:?}"
    );
    drop(scanner);
}

#[test]
fn an_s9s_that_was_killed_late_is_no_unkillable_process() {
    let cluster = Cluster::new();
    cluster.behaves("hang");
    let node = cluster.leader();
    let late = "poll,ppoll:delay_exit=150ms";
    let mut check = with_fault(late, node.command().args(["--max-age", "0", "--timeout", "3"]));
    assert_eq!(requesting(&mut check, GET).answer(), unknown("s9s-timeout"));
}

/// Writing the cache entry takes three seconds and three more.
const LATE_ENTRY: &str = "symlink,symlinkat,rename:delay_enter=3s";

#[test]
fn the_answer_does_not_wait_for_the_entry_to_be_written() {
    let cluster = Cluster::new();
    // The entry is late for the check's deadline as well: that must not make a second answer.
    let mut check = cluster.leader().command();
    check.args(["--timeout", "4"]);
    let mut client = connect(&mut with_fault(LATE_ENTRY, &check));
    client.send(GET);
    let is_written = || {
        let mut files = fs::read_dir(cluster.folder.path()).unwrap();
        files.any(|file| file.unwrap().path().is_symlink())
    };
    assert_eq!(client.receive(), LEADER);
    assert!(!is_written(), "the answer comes first");
    drop(client.stream);
    exits(&mut client.responder);
    assert!(is_written());
}

/// Freezes the disk, its working folder, on request and thaws it again. A test that fails or is killed must
/// not leave a frozen disk, which no process can get rid of. So this has a session of its own and is no child
/// of the check, and thaws when the test's folder is gone, or after some time.
const FREEZER: &str = r#"
    until_there() {
        moments=0
        until [ -e "$FOLDER/$1" ] || [ ! -e "$FOLDER/image" ] || [ "$moments" -eq 2000 ]; do
            sleep 0.01
            moments=$((moments + 1))
        done
    }
    cd "$FOLDER/disk"
    until_there freeze
    fsfreeze -f . && touch "$FOLDER/frozen"
    until_there thaw
    fsfreeze -u ."#;

/// The check, with a disk at `disk` in the cluster's folder that [`FREEZER`] freezes.
pub fn with_disk(cluster: &Cluster, check: &Command) -> Command {
    fs::create_dir(cluster.folder.join("disk")).unwrap();
    let script = format!(
        r#"
        export FOLDER={}
        truncate -s 8M "$FOLDER/image"
        mkfs.ext4 -q "$FOLDER/image" >/dev/null 2>&1
        mount -o loop "$FOLDER/image" "$FOLDER/disk"
        (env -u S9S_SIM setsid sh -c '{FREEZER}' </dev/null >/dev/null 2>&1 &)
        exec "$@""#,
        cluster.folder.path().display()
    );
    in_namespaces(&["--mount"], &script, check)
}

#[test]
fn a_frozen_disk_under_the_lock_file_costs_the_answer_nothing_once_s9s_runs() {
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let node = Node {
        lock: cluster.folder.join("disk/lock"),
        ..cluster.leader()
    };
    let mut client = connect(&mut with_disk(&cluster, node.command().args(["--timeout", "10"])));
    client.send(GET);
    wait_until("s9s runs", || cluster.runs() == 1);
    cluster.folder.write("freeze", "");
    wait_until("the disk is frozen", || cluster.folder.join("frozen").exists());
    cluster.open_gate();
    // A check that waited for the disk would be stuck at its deadline.
    assert_eq!(client.receive(), LEADER);
    let pid = client.responder.id().to_string();
    wait_until("the verdict waits for the disk", || {
        status_of(&pid).lines().any(|line| line.starts_with("State:\tD"))
    });
    cluster.folder.write("thaw", "");
    drop(client.stream);
    exits(&mut client.responder);
}

#[test]
fn an_s9s_that_cannot_be_killed_is_not_run_again_while_it_is_there() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let text = "until [ -e $S9S_SIM/frozen ]; do sleep 0.01; done; exec touch $S9S_SIM/disk/file";
    let node = Node {
        s9s: script(&cluster, text),
        ..cluster.leader()
    };
    cluster.folder.write("freeze", "");
    let mut client = connect(&mut with_disk(&cluster, &logging(&node, &["--timeout", "5"])));
    client.send(GET);
    assert_eq!(client.answer(), unknown("stuck"));
    let lines = log.lines();
    assert!(lines[0].contains("and SIGKILL does not end it"), "{lines:?}");
    // Elsewhere, the disk is not frozen.
    let arguments = ["--timeout", "5", "--max-age", "0"];
    for _ in 0..3 {
        assert_eq!(node.get(&arguments), unknown("stuck"), "it is not run again");
    }
    assert_eq!(cluster.processes().len(), 1, "touch");
    let scraped = node.ask(&arguments, b"GET /metrics HTTP/1.1\r\n\r\n");
    assert!(scraped.contains("\ncmonhachk_backoff_seconds +Inf\n"), "{scraped}");
    let told = node.answer(&["--explain", "--timeout", "0.3"]);
    assert!(told.contains("  back-off: s9s is not run while process "), "{told}");
    cluster.folder.write("thaw", "");
    wait_until("it is gone", || cluster.processes().is_empty());
    let node = cluster.leader();
    wait_until("the back-off is over with its cause", || node.get(&arguments) == LEADER);
}

#[test]
fn s9s_is_killed_early_enough_for_the_checks_that_wait() {
    let cluster = Cluster::new();
    cluster.behaves("hang");
    assert!(once_in_a_while(|| {
        let start = Instant::now();
        let answer = cluster.leader().get(&["--timeout", "3", "--max-age", "0"]);
        assert_eq!(answer, unknown("s9s-timeout"));
        let took = start.elapsed();
        assert!(took > Duration::from_millis(2400), "{took:?}");
        took < Duration::from_millis(2600)
    }));
}

#[test]
fn many_addresses_and_many_rows_take_no_time() {
    let addresses: Vec<String> = (0..1000)
        .map(|at| format!("10.{}.{}.7", 100 + at / 250, at % 250))
        .collect();
    let defaults = format!("RPC_BIND_ADDRESSES={}", addresses.join(","));
    let mut text = String::from("S VERSION OWNER GROUP NAME            IP              PORT COMMENT\n");
    for at in 0..10_000 {
        let address = format!("10.{}.{}.8", at / 250, at % 250);
        text += &format!("f 1.9     a     b     {address:<15} {address:<15} 9501 -\n");
    }
    text += "Total: 10000 controller(s)\n";
    let entries = node::bind_addresses(defaults.as_bytes()).unwrap();
    let node = node::Node::as_given(entries, Vec::new());
    let rows = list::parse(text.as_bytes()).unwrap();
    assert!(once_in_a_while(|| {
        let start = Instant::now();
        assert!(evaluate(&node, &rows).is_err());
        println!("10,000 rows and 1,000 addresses: {:?}", start.elapsed());
        start.elapsed() < Duration::from_secs(1)
    }));
}

#[test]
fn a_settings_file_holds_for_every_check_and_its_faults_are_named() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    // On the folder, because the machine may not have the file.
    let script = format!(
        "mount -t tmpfs tmpfs /etc/default; cp {}/settings /etc/default/cmonhachk; exec \"$@\"",
        cluster.folder.path().display()
    );
    let with = |text: &str, arguments: &[&str]| {
        cluster.folder.write("settings", text);
        let mut command = logging(&node, arguments);
        command.env_remove("CMONHACHK_TIMEOUT");
        let mut client = connect(&mut in_namespaces(&["--mount"], &script, &command));
        client.send(GET);
        client.answer()
    };
    assert_eq!(with("# none\n\n", &[]), LEADER);
    log.lines();
    assert_eq!(
        with("CMONHACHK_MAX_AGE=60\nCMONHACHK_TIMEOUT=never\n", &[]),
        unknown("bad-arguments")
    );
    let lines = log.lines();
    let expected = "<27>bad-arguments: /etc/default/cmonhachk, line 2: invalid value 'never'";
    assert!(lines[0].starts_with(expected), "{lines:?}");
    let command_line = in_namespaces(&["--mount"], &script, &node.command()).output().unwrap();
    let said = String::from_utf8(command_line.stderr).unwrap();
    assert!(said.contains(&expected["<27>bad-arguments: ".len()..]), "{said}");
    assert_eq!(command_line.status.code(), Some(2));
    let script = "mount -t tmpfs tmpfs /etc/default; mkdir /etc/default/cmonhachk; exec \"$@\"";
    let command_line = in_namespaces(&["--mount"], script, &node.command()).output().unwrap();
    let said = String::from_utf8(command_line.stderr).unwrap();
    assert!(said.contains("cannot read /etc/default/cmonhachk"), "{said}");
    // What is wrong elsewhere is no fault of the file.
    fs::write(cluster.folder.join("settings"), "CMONHACHK_MAX_AGE=3\n").unwrap();
    let script = format!(
        "mount -t tmpfs tmpfs /etc/default; cp {}/settings /etc/default/cmonhachk; exec \"$@\"",
        cluster.folder.path().display()
    );
    let mut command = node.command();
    command.env("CMONHACHK_TIMEOUT", "never");
    let command_line = in_namespaces(&["--mount"], &script, &command).output().unwrap();
    let said = String::from_utf8(command_line.stderr).unwrap();
    assert!(said.contains("invalid value 'never' for '--timeout"), "{said}");
    assert!(!said.contains("/etc/default/cmonhachk"), "{said}");
    cluster.behaves("hang");
    let start = Instant::now();
    assert_eq!(
        with("CMONHACHK_TIMEOUT='4.2'", &["--max-age", "0"]),
        unknown("s9s-timeout")
    );
    assert!(start.elapsed() > Duration::from_millis(3500), "{:?}", start.elapsed());
    assert_eq!(
        with("CMONHACHK_TIMEOUT=60", &["--max-age", "0", "--timeout", "1.5"]),
        unknown("s9s-timeout")
    );
    cluster.behaves("slow 2");
    assert_eq!(with("CMONHACHK_TIMEOUT=15", &["--max-age", "0"]), LEADER);
}
