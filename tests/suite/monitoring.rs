//! Prometheus understands what it gets, and alerts when somebody should look: deploy/monitoring, tried by promtool.

mod nightly;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use regex::Regex;

use crate::cluster::{Cluster, GET, Node, connect, project, unknown, wait_until};
use crate::late::{script, with_disk};

/// Runs promtool, from Debian's package prometheus; it must find no fault. Returns what it prints.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(project());
    let pipes = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut promtool = pipes.spawn().expect("prometheus is installed");
    promtool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

fn rules() -> String {
    fs::read_to_string(project().join("deploy/monitoring/cmonhachk.rules.yml")).unwrap()
}

/// The names of all alerts.
fn alerts(rules: &str) -> Vec<&str> {
    let names = Regex::new(r"(?m)^ +- alert: (\w+)$").unwrap();
    names
        .captures_iter(rules)
        .map(|found| found.get(1).unwrap().as_str())
        .collect()
}

#[test]
fn the_example_and_its_rules_have_no_fault() {
    // It reads the rules, too.
    let said = promtool(
        &["check", "config", "--lint-fatal", "deploy/monitoring/prometheus.yml"],
        "",
    );
    let count = alerts(&rules()).len();
    assert!(count > 9 && said.contains(&format!("{count} rules found")), "{said}");
}

#[test]
fn each_alert_fires_when_it_should_and_none_at_a_failover() {
    let file = "tests/monitoring/alerts.yml";
    promtool(&["test", "rules", file], "");
    let tried = fs::read_to_string(project().join(file)).unwrap();
    for alert in alerts(&rules()) {
        assert!(
            tried.contains(&format!("alertname=\"{alert}\"")),
            "{alert} is not in {file}"
        );
    }
}

#[test]
fn an_answer_of_each_kind_is_well_formed() {
    let cluster = Cluster::new();
    let leader = cluster.leader();
    let file = cluster.folder.write("maintenance", "new disks");
    let in_maintenance = ["--maintenance", file.to_str().unwrap()];
    is_well_formed(&leader, &[], "state{state=\"leader\"} 1");
    is_well_formed(&cluster.node("10.0.0.102"), &[], "state{state=\"follower\"} 1");
    is_well_formed(
        &leader,
        &["--s9s", "/nonexistent"],
        "reason{reason=\"s9s-not-found\"} 1",
    );
    is_well_formed(&leader, &in_maintenance, "maintenance 1");
    is_well_formed(&leader, &["surplus"], "reason{reason=\"bad-arguments\"} 1");
    leader.forget();
    cluster.behaves("wrong-password");
    is_well_formed(&leader, &[], "backoff_seconds 2");
}

#[test]
fn an_answer_during_a_back_off_without_an_end_is_well_formed() {
    let cluster = Cluster::new();
    let text = "until [ -e $S9S_SIM/frozen ]; do sleep 0.01; done; exec touch $S9S_SIM/disk/file";
    let node = Node {
        s9s: script(&cluster, text),
        ..cluster.leader()
    };
    cluster.folder.write("freeze", "");
    let mut client = connect(&mut with_disk(&cluster, node.command().args(["--timeout", "5"])));
    client.send(GET);
    assert_eq!(client.answer(), unknown("stuck"));
    is_well_formed(&node, &["--timeout", "5"], "backoff_seconds +Inf");
    cluster.folder.write("thaw", "");
    wait_until("it is gone", || cluster.processes().is_empty());
}

/// promtool finds no fault in what a scrape gets, which has a line that begins with `sample`.
fn is_well_formed(node: &Node<'_>, arguments: &[&str], sample: &str) {
    let answer = node.ask(arguments, b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(body.contains(&format!("\ncmonhachk_{sample}")), "{sample}: {answer}");
    promtool(&["check", "metrics"], body);
}
