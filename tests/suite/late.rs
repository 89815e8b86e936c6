//! Never late, never twice, never in the way: every client gets its answer, whatever blocks or stops.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use cmonhachk::defaults::bind_addresses;
use cmonhachk::evaluation::evaluate;
use cmonhachk::list;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::cluster::{
    Client, Cluster, GET, LEADER, Node, connect, exits, in_namespaces, unknown, wait_until, with_fault,
};
use crate::s9s::dies_with_a_check_that_is_killed;
use crate::syslog::{Log, logging};

/// An s9s that is this shell script.
fn script(cluster: &Cluster, text: &str) -> PathBuf {
    let path = cluster.folder.write("script", format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

fn status_of(pid: &str) -> String {
    fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default()
}

#[test]
fn a_check_that_was_stopped_past_its_deadline_does_not_say_200() {
    let cluster = Cluster::new();
    let sim = crate::cluster::simulated_s9s();
    let pid = cluster.folder.join("pid");
    let s9s = script(
        &cluster,
        &format!("kill -STOP $PPID\n{} \"$@\"\necho $$ >{}", sim.display(), pid.display()),
    );
    let node = Node {
        s9s,
        ..cluster.leader()
    };
    let start = Instant::now();
    let mut client = node.connect(&["--timeout", "0.5"]);
    client.send(GET);
    wait_until("s9s has ended", || {
        let pid = fs::read_to_string(&pid).unwrap_or_default();
        !pid.is_empty() && status_of(&pid).lines().any(|line| line.starts_with("State:\tZ"))
    });
    thread::sleep(Duration::from_secs(1).saturating_sub(start.elapsed()));
    kill(Pid::from_raw(client.responder.id().cast_signed()), Signal::SIGCONT).unwrap();
    assert_eq!(client.answer(), unknown("s9s-timeout"));
    let node = Node { s9s: sim, ..node };
    assert_eq!(node.get(&[]), LEADER, "and leaves nothing wrong to the others");
}

/// Makes every open(2) of this file wait, as an on-access scanner that hangs does.
fn scanner_that_hangs(path: &Path) -> Fanotify {
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
    if !Uid::effective().is_root() {
        return;
    }
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
        let start = Instant::now();
        let mut client = connect(&mut logging(&node, &["--timeout", "0.6"]));
        client.send(GET);
        assert_eq!(client.answer(), unknown("stuck"), "{blocked}");
        let took = start.elapsed();
        assert!((700..1500).contains(&took.as_millis()), "{blocked}: {took:?}");
        let lines = log.lines();
        let name = path.to_str().unwrap();
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with("<27>stuck: ") && line.contains(name)),
            "{blocked}: {lines:?}"
        );
        wait_until("nothing is left", || cluster.processes().is_empty());
        let by_hand = node.by_hand(&["--timeout", "0.3", "--explain"]);
        if blocked != "the lock file" {
            assert_eq!(
                String::from_utf8(by_hand.stdout).unwrap(),
                unknown("stuck"),
                "{blocked}"
            );
            assert_eq!(by_hand.status.code(), Some(2));
        }
        drop(scanner);
    }
}

/// Writing the cache entry takes two seconds.
const LATE_ENTRY: &str = "symlink,symlinkat,rename:delay_enter=2s";

#[test]
fn the_answer_does_not_wait_for_the_entry_to_be_written() {
    let cluster = Cluster::new();
    // The entry is late for the check's deadline as well: that must not make a second answer.
    let mut check = cluster.leader().command();
    check.args(["--timeout", "1"]);
    let mut client = connect(&mut with_fault(LATE_ENTRY, &check));
    let start = Instant::now();
    client.send(GET);
    assert_eq!(client.receive(), LEADER);
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    drop(client.stream);
    exits(&mut client.responder);
    assert!(
        start.elapsed() > Duration::from_secs(2),
        "it was written after the answer"
    );
}

#[test]
fn a_person_gets_one_answer_however_late_the_entry_is() {
    let cluster = Cluster::new();
    let mut check = cluster.leader().command();
    check.args(["--timeout", "1"]);
    let output = with_fault(LATE_ENTRY, &check).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), LEADER);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_frozen_disk_under_the_lock_file_costs_the_answer_nothing_once_s9s_runs() {
    if !Uid::effective().is_root() {
        return;
    }
    let cluster = Cluster::new();
    cluster.behaves("gate");
    let disk = cluster.folder.join("disk");
    fs::create_dir(&disk).unwrap();
    let node = Node {
        lock: disk.join("lock"),
        ..cluster.leader()
    };
    let mut check = node.command();
    check.env("FOLDER", cluster.folder.path());
    let script = "\
truncate -s 8M \"$FOLDER/image\"
mkfs.ext4 -q \"$FOLDER/image\" >/dev/null 2>&1
mount -o loop \"$FOLDER/image\" \"$FOLDER/disk\"
(
    until [ -e \"$FOLDER/freeze\" ]; do sleep 0.01; done
    fsfreeze -f \"$FOLDER/disk\" && touch \"$FOLDER/frozen\"
    until [ -e \"$FOLDER/thaw\" ]; do sleep 0.01; done
    fsfreeze -u \"$FOLDER/disk\"
) </dev/null >/dev/null 2>&1 &
exec \"$@\"";
    check.args(["--timeout", "10"]);
    let mut client = connect(&mut in_namespaces(&["--mount"], script, &check));
    client.send(GET);
    wait_until("s9s runs", || cluster.runs() == 1);
    cluster.folder.write("freeze", "");
    wait_until("the disk is frozen", || cluster.folder.join("frozen").exists());
    let start = Instant::now();
    cluster.open_gate();
    assert_eq!(client.receive(), LEADER);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let state = || status_of(&client.responder.id().to_string());
    assert!(
        !state().is_empty(),
        "the verdict could be written: the disk was not frozen"
    );
    cluster.folder.write("thaw", "");
    drop(client.stream);
    exits(&mut client.responder);
}

#[test]
fn a_person_who_looks_is_in_no_checks_way() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    cluster.behaves("slow 0.8");
    let looks: Vec<_> = [&["--explain"][..], &["--explain"], &[]]
        .map(|arguments| node.command().args(arguments).stdout(Stdio::null()).spawn().unwrap())
        .into();
    wait_until("they look", || cluster.runs() == 3);
    let clients: Vec<Client> = (0..6)
        .map(|_| {
            let mut client = node.connect(&[]);
            client.send(GET);
            client
        })
        .collect();
    for client in clients {
        assert_eq!(client.answer(), LEADER);
    }
    assert_eq!(cluster.runs(), 4);
    for mut look in looks {
        assert_eq!(look.wait().unwrap().code(), Some(0));
    }
}

/// This many checks at the same moment, on a node that leads.
fn at_once(checks: usize, connect: impl Fn(&[&str]) -> Client) {
    let mut clients: Vec<_> = (0..checks).map(|_| connect(&["--timeout", "10"])).collect();
    for client in &mut clients {
        client.send(GET);
    }
    for client in clients {
        assert_eq!(client.answer(), LEADER);
    }
}

#[test]
fn without_a_usable_lock_file_many_checks_at_once_are_one_run() {
    let cluster = Cluster::new();
    cluster.behaves("slow 0.3");
    let node = Node {
        lock: cluster.folder.join("no-such/folder/lock"),
        ..cluster.leader()
    };
    at_once(40, |arguments| node.connect_in_own_memory(arguments));
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn where_no_entry_can_be_written_beside_the_lock_file_many_checks_are_one_run_all_the_same() {
    let cluster = Cluster::new();
    cluster.behaves("slow 0.3");
    let node = cluster.leader();
    fs::write(&node.lock, "").unwrap();
    fs::set_permissions(&node.lock, Permissions::from_mode(0o600)).unwrap();
    // A folder takes the place of the draft, because root may write everywhere else.
    let name = node.lock.file_name().unwrap().to_str().unwrap().to_string();
    assert_eq!(node.get(&["--max-age", "0"]), LEADER);
    let entries = fs::read_dir(cluster.folder.path())
        .unwrap()
        .map(|file| file.unwrap().path());
    let entry = entries.into_iter().find(|path| path.is_symlink()).unwrap();
    assert!(entry.file_name().unwrap().to_str().unwrap().starts_with(&name));
    fs::create_dir(format!("{}.new", entry.display())).unwrap();
    // An entry of a boot that lasted longer stays there, and must not hide the new one.
    let text = fs::read_link(&entry).unwrap().to_str().unwrap().to_string();
    let mut words: Vec<&str> = text.split(' ').collect();
    words[2] = "00000000-0000-0000-0000-000000000000";
    words[3] = "999999999999999";
    fs::remove_file(&entry).unwrap();
    symlink(words.join(" "), &entry).unwrap();
    let runs = cluster.runs();
    at_once(40, |arguments| {
        node.connect_in_own_memory(&[arguments, &["--max-age", "60"]].concat())
    });
    assert_eq!(node.get_in_own_memory(&["--max-age", "60", "--timeout", "10"]), LEADER);
    assert_eq!(cluster.runs(), runs + 1);
}

#[test]
fn clients_that_send_nothing_take_no_run_from_those_that_do() {
    let cluster = Cluster::new();
    cluster.behaves("slow 0.8");
    let node = cluster.leader();
    let silent: Vec<_> = (0..8).map(|_| node.connect(&[])).collect();
    wait_until("one of them runs s9s", || cluster.runs() == 1);
    let start = Instant::now();
    assert_eq!(node.get(&[]), LEADER);
    assert!(start.elapsed() < Duration::from_millis(1100), "{:?}", start.elapsed());
    assert_eq!(cluster.runs(), 1, "of the run that a silent one began");
    for client in silent {
        assert_eq!(client.answer(), LEADER);
    }
}

#[test]
fn a_timeout_of_a_check_that_waited_for_the_lock_is_not_shared() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let options = ["--timeout", "2", "--max-age", "60"];
    let lock = node.hold_the_lock();
    let mut client = node.connect(&options);
    client.send(GET);
    cluster.behaves("slow 0.9");
    thread::sleep(Duration::from_millis(1200));
    drop(lock);
    assert_eq!(client.answer(), unknown("s9s-timeout"));
    assert_eq!(node.get(&options), LEADER);
}

#[test]
fn s9s_is_killed_early_enough_for_the_checks_that_wait() {
    let cluster = Cluster::new();
    cluster.behaves("hang");
    let start = Instant::now();
    assert_eq!(cluster.leader().get(&["--timeout", "3"]), unknown("s9s-timeout"));
    let took = start.elapsed();
    assert!((2500..2800).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn a_failure_that_has_nothing_to_do_with_time_is_shared_by_a_check_that_waited() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let lock = node.hold_the_lock();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = node.connect(&["--timeout", "3"]);
            client.send(GET);
            client
        })
        .collect();
    cluster.behaves("connection-refused");
    thread::sleep(Duration::from_millis(1200));
    drop(lock);
    for client in clients {
        assert_eq!(client.answer(), unknown("s9s-no-connection"));
    }
    assert_eq!(cluster.runs(), 1);
}

#[test]
fn the_folder_of_the_lock_file_is_made_for_its_user_alone() {
    let cluster = Cluster::new();
    let folder = cluster.folder.join("run");
    let node = Node {
        lock: folder.join("lock"),
        ..cluster.leader()
    };
    assert_eq!(node.answer(&[]), LEADER);
    assert!(
        !folder.exists(),
        "a check by hand must not make the folder of the service"
    );
    assert_eq!(cluster.runs(), 1);
    at_once(10, |arguments| node.connect(arguments));
    assert_eq!(cluster.runs(), 2);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn without_a_boot_id_only_those_who_waited_share() {
    let cluster = Cluster::new();
    cluster.behaves("slow 0.3");
    let node = cluster.leader();
    let start = || {
        let mut command = node.command();
        command.args(["--max-age", "60", "--timeout", "10"]);
        let script = "mount --bind /dev/null /proc/sys/kernel/random/boot_id; exec \"$@\"";
        let mut client = connect(&mut in_namespaces(&["--mount"], script, &command));
        client.send(GET);
        client
    };
    for client in [start(), start(), start()] {
        assert_eq!(client.answer(), LEADER);
    }
    let runs = cluster.runs();
    assert!(runs < 3, "nobody shared");
    assert_eq!(start().answer(), LEADER);
    assert_eq!(cluster.runs(), runs + 1, "an old entry was believed");
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
    let entries = bind_addresses(defaults.as_bytes()).unwrap();
    let rows = list::parse(text.as_bytes()).unwrap();
    let start = Instant::now();
    assert!(evaluate(&entries, &[], &rows).is_err());
    println!("10,000 rows and 1,000 addresses: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn an_s9s_that_closes_its_descriptors_dies_with_a_check_that_is_killed() {
    let cluster = Cluster::new();
    let close = (3..10).map(|fd| format!("exec {fd}<&-; ")).collect::<String>();
    let runs = cluster.folder.join("runs");
    let s9s = script(&cluster, &format!("{close}echo $$ >>{}; exec sleep 60", runs.display()));
    let node = Node {
        s9s,
        ..cluster.leader()
    };
    dies_with_a_check_that_is_killed(&node);
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
        let command = logging(&node, arguments);
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
    let client = |command| connect(&mut in_namespaces(&["--mount"], &script, command));
    assert_eq!(
        client(&logging(&node, &["--timeout", "0.3"])).answer(),
        unknown("bad-arguments"),
        "a silent client is not waited for past the time limit"
    );
    let lines = log.lines();
    let expected = "<27>bad-arguments: /etc/default/cmonhachk, line 2: invalid value 'never'";
    assert!(lines[0].starts_with(expected), "{lines:?}");
    let by_hand = in_namespaces(&["--mount"], &script, &node.command()).output().unwrap();
    let said = String::from_utf8(by_hand.stderr).unwrap();
    assert!(said.contains(&expected["<27>bad-arguments: ".len()..]), "{said}");
    assert_eq!(by_hand.status.code(), Some(2));
    let script = "mount -t tmpfs tmpfs /etc/default; mkdir /etc/default/cmonhachk; exec \"$@\"";
    let by_hand = in_namespaces(&["--mount"], script, &node.command()).output().unwrap();
    let said = String::from_utf8(by_hand.stderr).unwrap();
    assert!(said.contains("cannot read /etc/default/cmonhachk"), "{said}");
    cluster.behaves("hang");
    let start = Instant::now();
    assert_eq!(
        with("CMONHACHK_TIMEOUT='0.3'", &["--max-age", "0"]),
        unknown("s9s-timeout")
    );
    assert!(start.elapsed() < Duration::from_millis(1200), "{:?}", start.elapsed());
    assert_eq!(
        with("CMONHACHK_TIMEOUT=60", &["--max-age", "0", "--timeout", "0.3"]),
        unknown("s9s-timeout")
    );
    cluster.behaves("slow 2");
    assert_eq!(with("CMONHACHK_TIMEOUT=5", &["--max-age", "0"]), LEADER);
    if Uid::effective().is_root() {
        let _scanner = scanner_that_hangs(&node.defaults);
        let start = Instant::now();
        assert_eq!(with("CMONHACHK_TIMEOUT=0.3", &["--max-age", "0"]), unknown("stuck"));
        assert!(start.elapsed() < Duration::from_millis(1300), "{:?}", start.elapsed());
    }
}
