//! Hostile environments, arguments, clients, and a hostile s9s: one well-formed answer and nothing
//! else on the connection, no shell, no unintended file, no forged log.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use cmonhachk::verdict::reason::Reason;

use crate::cluster::{Cluster, FOLLOWER, GET, LEADER, Node, binary, connect, simulated_s9s, starting, unknown};
use crate::syslog::{Log, logging};

fn get(command: &mut Command) -> String {
    let mut client = connect(command);
    client.send(GET);
    client.answer()
}

/// What the answer says. It must be one of the known answers, byte for byte.
fn told(answer: &str) -> &'static str {
    let unknowns = Reason::ALL.map(|reason| (unknown(reason.code()), reason.code()));
    let known = [(LEADER.to_string(), "leader"), (FOLLOWER.to_string(), "follower")];
    let answers = known.into_iter().chain(unknowns);
    let told = answers.into_iter().find(|(text, _)| text == answer);
    told.unwrap_or_else(|| panic!("no answer of ours: {answer:?}")).1
}

fn bytes(text: &[u8]) -> &OsStr {
    OsStr::from_bytes(text)
}

/// A check of the node in an empty folder, without cached verdicts.
fn check(node: &Node<'_>) -> Command {
    let mut command = node.command();
    let folder = node.cluster.folder.join("empty");
    let _ = fs::create_dir(&folder);
    command.env("CMONHACHK_MAX_AGE", "0").current_dir(folder);
    command
}

fn nothing_was_made(cluster: &Cluster) {
    let made: Vec<_> = fs::read_dir(cluster.folder.join("empty")).unwrap().collect();
    assert!(made.is_empty(), "{made:?}");
}

#[test]
fn no_variable_of_the_environment_gets_anything_else_to_the_client() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let trap = cluster.folder.write("trap", "#!/bin/sh\ntouch ../empty/trapped\n");
    fs::set_permissions(&trap, Permissions::from_mode(0o755)).unwrap();
    let folder = cluster.folder.join("path");
    fs::create_dir(&folder).unwrap();
    for name in ["sh", "bash", "env", "logger", "ip", "ld.so"] {
        symlink(&trap, folder.join(name)).unwrap();
    }
    let path = |rest: &str| format!("{}:{rest}", folder.display());
    let (path, gone, here) = (path("/usr/bin:/bin"), path("/nowhere"), ".::".to_string());
    let long = "x".repeat(100_000);
    for (name, value, expected) in [
        ("PATH", path.as_str(), &["leader"][..]),
        // The simulated s9s itself needs programs.
        ("PATH", &gone, &["leader", "s9s-failed", "list-unreadable"]),
        ("PATH", &here, &["leader", "s9s-failed", "list-unreadable"]),
        ("PATH", &long, &["leader", "s9s-failed", "list-unreadable"]),
        ("IFS", "/ -", &["leader"]),
        ("ENV", trap.to_str().unwrap(), &["leader"]),
        ("BASH_ENV", trap.to_str().unwrap(), &["leader"]),
        ("SHELLOPTS", "xtrace:verbose", &["leader"]),
        ("PS4", "$(touch ps4)", &["leader"]),
        ("HOME", "$(touch home)", &["leader"]),
        ("HOME", "../../\u{1b}[2J\n", &["leader"]),
        ("HOME", &long, &["leader"]),
        ("LANG", "../../nonsense", &["leader"]),
        ("LC_ALL", "tr_TR.ISO-8859-9", &["leader"]),
        ("LOCPATH", folder.to_str().unwrap(), &["leader"]),
        ("GCONV_PATH", folder.to_str().unwrap(), &["leader"]),
        ("NLSPATH", "%s%n%s%n", &["leader"]),
        ("TZ", ":/dev/zero", &["leader"]),
        ("MALLOC_CHECK_", "3", &["leader"]),
        ("GLIBC_TUNABLES", "glibc.malloc.check=nonsense:x", &["leader"]),
        ("RUST_BACKTRACE", "full", &["leader"]),
        ("RUST_LOG", "trace", &["leader"]),
        ("COLUMNS", "0", &["leader"]),
        ("CLICOLOR_FORCE", "1", &["leader"]),
        ("CMONHACHK_EXPLAIN", "true", &["leader"]),
        ("CMONHACHK_TIMEOUT", "\u{1b}[2J\r\nX: y", &["bad-arguments"]),
        ("CMONHACHK_MAX_AGE", &long, &["bad-arguments"]),
    ] {
        let told = told(&get(check(&node).env(name, value)));
        assert!(expected.contains(&told), "{name}={value:.60}: {told}");
    }
    for (name, expected) in [
        ("CMONHACHK_TIMEOUT", "bad-arguments"),
        ("CMONHACHK_MAX_AGE", "bad-arguments"),
        ("CMONHACHK_CMON_DEFAULTS", "defaults-missing"),
        ("CMONHACHK_S9S", "s9s-not-found"),
        ("HOME", "leader"),
        ("S9S_\u{1b}", "leader"),
    ] {
        let answer = get(check(&node).env(name, bytes(b"\xff\xfe\x80")));
        assert_eq!(told(&answer), expected, "{name}");
    }
    nothing_was_made(&cluster);
}

/// The binary is static: a loader would write to the client before the program's first line runs. The
/// loader of s9s may make its list unreadable.
#[test]
fn no_variable_of_the_loader_gets_anything_else_to_the_client() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let folder = cluster.folder.path().to_str().unwrap();
    for (name, value, expected) in [
        ("LD_PRELOAD", "/nonsense.so $(touch x)", &["leader"][..]),
        ("LD_PRELOAD", "/etc/passwd", &["leader"]),
        ("LD_LIBRARY_PATH", folder, &["leader"]),
        ("LD_AUDIT", "/nonsense.so", &["leader"]),
        ("LD_DEBUG", "all", &["leader", "s9s-too-much-output"]),
        ("LD_DEBUG", "help", &["leader", "list-unreadable"]),
        ("LD_SHOW_AUXV", "1", &["leader", "list-unreadable"]),
        ("LD_TRACE_LOADED_OBJECTS", "1", &["list-unreadable"]),
        ("LD_BIND_NOW", "1", &["leader"]),
    ] {
        let told = told(&get(check(&node).env(name, value)));
        assert!(expected.contains(&told), "{name}={value}: {told}");
    }
    nothing_was_made(&cluster);
}

#[test]
fn an_environment_as_large_as_the_kernel_takes_is_answered() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let crowded = |variables: usize| {
        let mut command = check(&node);
        command.envs((0..variables).map(|number| (format!("CROWD_{number}"), "x".repeat(100))));
        command
    };
    assert_eq!(told(&get(&mut crowded(3_000))), "leader");
    // The largest environment that fits leaves no room for what s9s gets in addition.
    let fits = |variables: usize| crowded(variables).arg("--help").output().is_ok();
    let (mut fitting, mut failing) = (3_000, 100_000);
    assert!(!fits(failing), "the kernel has a limit");
    while failing - fitting > 1 {
        let middle = fitting.midpoint(failing);
        *(if fits(middle) { &mut fitting } else { &mut failing }) = middle;
    }
    for variables in [fitting - 1, fitting - 200] {
        let told = told(&get(&mut crowded(variables)));
        assert!(
            ["leader", "s9s-failed", "s9s-not-started", "list-unreadable"].contains(&told),
            "{told}"
        );
    }
}

#[test]
fn arguments_that_are_not_utf_8_or_endless_are_answered() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let odd = bytes(b"\xff\xfe \x80");
    let mut lock = OsString::from(cluster.folder.join("lock-"));
    lock.push(odd);
    for (arguments, expected) in [
        (vec![odd], "bad-arguments"),
        (vec![OsStr::new("--timeout"), odd], "bad-arguments"),
        (vec![OsStr::new("--cmon-defaults"), odd], "defaults-missing"),
        (vec![OsStr::new("--s9s"), odd], "s9s-not-found"),
        (vec![OsStr::new("--lock-file"), &lock], "leader"),
        (vec![bytes(b"--\xff=\x1b[2J")], "bad-arguments"),
        (vec![OsStr::new(""); 10_000], "bad-arguments"),
        (vec![bytes(&[b'-'; 130_000])], "bad-arguments"),
        (vec![OsStr::new("--help")], "bad-arguments"),
        (vec![OsStr::new("--version")], "bad-arguments"),
    ] {
        let answer = get(check(&node).args(&arguments));
        assert_eq!(told(&answer), expected, "{:.60}", format!("{arguments:?}"));
    }
    assert!(
        fs::exists(&lock).unwrap(),
        "the lock file has the name that it was given"
    );
    nothing_was_made(&cluster);
}

/// Names that a shell would interpret.
const SHELLISH: [&str; 14] = [
    "$(touch made)",
    "`touch made`",
    "s9s; touch made",
    "s9s | touch made",
    "s9s && touch made",
    "s9s > made",
    "s9s\ntouch made",
    "$HOME",
    "${IFS}",
    "*",
    "?9s",
    "~",
    "a name with blanks",
    "'\"\\",
];

#[test]
fn an_s9s_is_called_what_it_is_called_and_no_shell_is_asked() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let folder = cluster.folder.join("path");
    fs::create_dir(&folder).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let mut command = check(&node);
    let mut ask = |name: &str| get(command.env("PATH", &path).env("CMONHACHK_S9S", name));
    for name in SHELLISH {
        assert_eq!(told(&ask(name)), "s9s-not-found", "{name}");
        let program = folder.join(name);
        symlink(simulated_s9s(), &program).unwrap();
        assert_eq!(told(&ask(name)), "leader", "{name}");
        fs::remove_file(program).unwrap();
    }
    for (name, expected) in [
        (".", "s9s-not-found"),
        ("/", "s9s-not-executable"),
        ("~/s9s", "s9s-not-found"),
        ("../path/s9s", "s9s-not-found"),
        ("-c", "s9s-not-found"),
    ] {
        assert_eq!(told(&ask(name)), expected, "{name}");
    }
    nothing_was_made(&cluster);
}

/// The programs that a check executes, itself first.
fn executed(node: &Node<'_>, s9s: &str, expected: &str) -> Vec<String> {
    let log = node.cluster.folder.join("strace");
    let check = check(node);
    let mut command = starting("strace", &check);
    command
        .args(["-f", "-qq", "-e", "trace=execve,execveat", "-o"])
        .arg(&log);
    command.arg(check.get_program());
    command.env("CMONHACHK_S9S", s9s);
    assert_eq!(told(&get(&mut command)), expected, "{s9s}");
    let log = fs::read_to_string(log).unwrap();
    let calls = log.lines().filter(|line| line.contains("exec"));
    calls
        .map(|line| line.split('"').nth(1).expect(line).to_string())
        .collect()
}

#[test]
fn nothing_is_executed_but_s9s() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let own = binary();
    assert_eq!(executed(&node, "/bin/true", "list-unreadable"), [own, "/bin/true"]);
    for name in SHELLISH {
        assert_eq!(executed(&node, name, "s9s-not-found"), [own], "{name}");
    }
    // To the kernel this is no program; a shell would run it.
    let script = cluster.folder.write("script", "touch made\n");
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let script = script.to_str().unwrap();
    assert_eq!(executed(&node, script, "s9s-not-executable"), [own, script]);
}

/// Text that a terminal, a log or an HTTP client would interpret.
const POISON: &str = "\r\n<0>kernel: forged\rHTTP/1.1 200 OK\r\n\r\nCmonhachk-State: leader\u{0}\u{7}\u{8}\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}31m\u{7f}";

/// All that is logged is the check's own lines, without control characters and of at most 1024 bytes.
fn is_clean(log: &Log, what: &str) {
    let lines = log.lines();
    assert!(!lines.is_empty(), "{what}");
    for line in &lines {
        assert!(line.starts_with("<2"), "{what}: {line:?}");
        assert!(!line.chars().any(char::is_control), "{what}: {line:?}");
        assert!(line.len() <= 1024, "{what}: {} bytes", line.len());
    }
}

#[test]
fn what_a_client_sends_is_neither_answered_nor_logged() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    assert_eq!(get(&mut logging(&node, &["--max-age", "60"])), LEADER);
    is_clean(&log, "the first");
    for request in [
        format!("GET /{POISON} HTTP/1.1\r\n\r\n"),
        format!("{POISON}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {POISON}\r\nX-{POISON}: 1\r\n\r\n"),
        "GET /%0d%0aCmonhachk-State:%20leader HTTP/1.1\r\n\r\n".to_string(),
        "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n".repeat(100),
    ] {
        let mut client = connect(&mut logging(&node, &["--max-age", "60"]));
        client.send(request.as_bytes());
        assert_eq!(client.answer(), LEADER, "{request:?}");
        assert_eq!(log.lines(), [""; 0], "{request:?}");
    }
}

#[test]
fn what_s9s_prints_is_not_answered_and_logged_clean() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    let long = "x".repeat(100_000);
    let get = |what: &str| {
        let told = told(&get(&mut logging(&node, &["--max-age", "0"])));
        is_clean(&log, what);
        told
    };
    // The text is in the comment of this node's row; a line end would end the row.
    let comment = POISON.replace(['\r', '\n', '\0'], "");
    for (text, leads) in [(&comment, "l"), (&long, "f")] {
        let row = format!("{leads}\t1.9\ta\tb\t10.0.0.101\t10.0.0.101\t9501\t{text}\n");
        cluster.folder.write("controllers", row);
        assert!(["leader", "follower", "list-unreadable"].contains(&get("in a comment")));
    }
    for field in 1..8 {
        let mut row = ["l", "1.9", "a", "b", "10.0.0.101", "10.0.0.101", "9501", "c"].map(str::to_string);
        row[field] += &POISON.replace('\0', "");
        cluster.folder.write("controllers", row.join("\t") + "\n");
        // The verdict before is forgotten, so that there is a change to log.
        node.forget();
        let told = get("in a field");
        assert!(told != "follower", "field {field}");
    }
    node.forget();
    let script = |text: &str| {
        let file = cluster.folder.write("poison", text);
        let path = cluster
            .folder
            .write("attacker", format!("#!/bin/sh\ncat {} >&2\nexit 3\n", file.display()));
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    };
    for text in [POISON, &long] {
        let s9s = script(text);
        let mut command = logging(&node, &["--max-age", "0", "--s9s", s9s.to_str().unwrap()]);
        node.forget();
        assert_eq!(told(&self::get(&mut command)), "s9s-login-failed");
        is_clean(&log, "on standard error");
    }
}

#[test]
fn what_the_arguments_and_variables_hold_is_logged_clean() {
    let cluster = Cluster::new();
    let log = Log::open(&cluster);
    let node = cluster.leader();
    let poison = POISON.replace('\0', "");
    let long = format!("--{}", "x".repeat(100_000));
    let folder = cluster.folder.join("a\nb\u{1b}[2J");
    fs::create_dir(&folder).unwrap();
    for arguments in [
        ["--timeout", &poison],
        ["--max-age", &long],
        [&poison, ""],
        [&long, ""],
        ["--s9s", &poison],
        ["--cmon-defaults", &poison],
        ["--lock-file", folder.to_str().unwrap()],
    ] {
        node.forget();
        told(&get(&mut logging(&node, &arguments)));
        is_clean(&log, &format!("{:.40}", format!("{arguments:?}")));
    }
}
