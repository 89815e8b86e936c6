//! What Prometheus gets: the verdict that every other client gets, in its own words.

use crate::cluster::{Cluster, FOLLOWER, LEADER, Node, unknown, wait_until};
use crate::haproxy::Haproxy;
use crate::late::script;
use crate::versions::Versions;
use crate::xinetd::Xinetd;

const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n";

/// The head of a response, and its body.
fn parts(answer: &str) -> (&str, &str) {
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"))
}

/// The metrics that a scrape gets.
struct Metrics(String);

impl Metrics {
    fn of(node: &Node<'_>, arguments: &[&str]) -> Metrics {
        Metrics::in_answer(&node.ask(arguments, SCRAPE))
    }

    fn in_answer(answer: &str) -> Metrics {
        let (head, body) = parts(answer);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        Metrics(body.to_string())
    }

    /// The value of a sample, by its name and labels without "cmonhachk_".
    fn value(&self, sample: &str) -> Option<f64> {
        let mut lines = self.0.lines();
        let value = lines.find_map(|line| line.strip_prefix("cmonhachk_")?.strip_prefix(sample)?.strip_prefix(' '))?;
        Some(value.parse().unwrap())
    }

    fn state(&self) -> [Option<f64>; 3] {
        ["leader", "follower", "unknown"].map(|state| self.value(&format!("state{{state=\"{state}\"}}")))
    }

    /// The reasons that have a sample.
    fn reasons(&self) -> Vec<&str> {
        let samples = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix("cmonhachk_reason{reason=\""));
        samples.map(|sample| sample.strip_suffix("\"} 1").unwrap()).collect()
    }
}

#[test]
fn a_scrape_gets_each_state_as_a_200() {
    let cluster = Cluster::new();
    for (address, state, reasons) in [
        ("10.0.0.101", [1.0, 0.0, 0.0], &[][..]),
        ("10.0.0.102", [0.0, 1.0, 0.0], &[]),
        ("10.0.0.9", [0.0, 0.0, 1.0], &["not-listed"]),
    ] {
        let metrics = Metrics::of(&cluster.node(address), &["--timeout", "5"]);
        assert_eq!(metrics.state(), state.map(Some), "{address}");
        assert_eq!(metrics.reasons(), reasons, "{address}");
        assert_eq!(metrics.value("maintenance"), Some(0.0));
        assert_eq!(metrics.value("backoff_seconds"), Some(0.0));
        // A run of s9s ends 0.55 s before the check must answer.
        assert_eq!(metrics.value("s9s_timeout_seconds"), Some(4.45));
        let version = format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
        assert_eq!(metrics.value(&version), Some(1.0));
    }
}

#[test]
fn a_scrape_and_a_check_share_one_run_and_its_time() {
    let cluster = Cluster::new();
    let slow = format!("sleep 0.3; exec {} \"$@\"", cluster.leader().s9s.display());
    let node = Node {
        s9s: script(&cluster, &slow),
        ..cluster.leader()
    };
    let arguments = ["--max-age", "60"];
    let first = Metrics::of(&node, &arguments);
    assert_eq!(node.get(&arguments), LEADER);
    let second = Metrics::of(&node, &arguments);
    assert_eq!(cluster.runs(), 1);

    let took = first.value("s9s_duration_seconds").unwrap();
    assert!((0.3..15.0).contains(&took), "{took}");
    assert_eq!(second.value("s9s_duration_seconds"), Some(took));
    let ages = [first, second].map(|metrics| metrics.value("verdict_age_seconds").unwrap());
    assert!(
        took <= ages[0] && ages[0] < ages[1] && ages[1] < 60.0,
        "{took}, {ages:?}"
    );
    let told = node.answer(&["--explain"]);
    assert!(told.contains(&format!(" s old, s9s took {took:.3} s\n")), "{told}");
}

#[test]
fn a_back_off_is_told_and_a_scrape_does_not_end_it() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    cluster.behaves("wrong-password");
    assert_eq!(node.get(&[]), unknown("s9s-refused"));
    let runs = cluster.runs();
    let metrics = Metrics::of(&node, &["--max-age", "0"]);
    assert_eq!(cluster.runs(), runs);
    assert_eq!(metrics.reasons(), ["s9s-refused"]);
    let left = metrics.value("backoff_seconds").unwrap();
    assert!(0.0 < left && left < 30.0, "{left}");
}

#[test]
fn what_is_not_known_is_left_out() {
    let cluster = Cluster::new();
    let node = cluster.leader();
    let is_known = |metrics: &Metrics, name| metrics.value(name).is_some();

    // s9s was not asked.
    let file = cluster.folder.write("maintenance", "new disks");
    let metrics = Metrics::of(&node, &["--maintenance", file.to_str().unwrap()]);
    assert_eq!(metrics.reasons(), ["maintenance"]);
    assert_eq!(metrics.value("maintenance"), Some(1.0));
    for name in ["verdict_age_seconds", "s9s_duration_seconds", "backoff_seconds"] {
        assert!(!is_known(&metrics, name), "{name}: {}", metrics.0);
    }

    // It was to be asked, and could not be started.
    let metrics = Metrics::of(&node, &["--s9s", "/nonexistent/s9s"]);
    assert_eq!(metrics.reasons(), ["s9s-not-found"]);
    assert!(is_known(&metrics, "verdict_age_seconds") && !is_known(&metrics, "s9s_duration_seconds"));

    // The options could not be read.
    let metrics = Metrics::of(&node, &["--max-age", "soon"]);
    assert_eq!(metrics.reasons(), ["bad-arguments"]);
    assert!(!is_known(&metrics, "s9s_timeout_seconds"));
}

#[test]
fn a_scrape_obeys_the_rules_of_every_request() {
    let cluster = Cluster::new();
    let node = cluster.node("10.0.0.102");
    let whole = node.ask(&[], SCRAPE);
    let (head, body) = parts(&whole);
    assert!(
        head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())),
        "{head}"
    );
    assert!(head.ends_with("\r\nCmonhachk-State: follower"), "{head}");

    let head = node.ask(&[], b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert_eq!(head.split_once("\r\n\r\n").unwrap().1, "");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    // A request that never gets its end is answered as far as it came.
    Metrics::in_answer(&node.ask(&[], b"GET /metrics HTTP/1.1\r\nHost: a\r\n"));

    for request in [
        "GET /metrics HTTP/1.0\r\n\r\n",
        "OPTIONS /metrics HTTP/1.1\r\n\r\n",
        "POST /metrics HTTP/1.1\r\n\r\n",
        "GET /metrics/ HTTP/1.1\r\n\r\n",
        "GET /metrics",
    ] {
        assert_eq!(node.ask(&[], request.as_bytes()), FOLLOWER, "{request}");
    }
}

#[test]
fn haproxy_s_check_of_the_metrics_is_told_the_role() {
    let cluster = Cluster::new();
    let [leader, follower] = ["10.0.0.101", "10.0.0.102"].map(|address| Xinetd::start(cluster.node(address), ""));
    let configuration = format!(
        "global\n    stats socket {}\n\
         defaults\n    mode tcp\n    timeout connect 20s\n    timeout client 20s\n    timeout server 20s\n    timeout check 20s\n\
         backend ui\n    option httpchk GET /metrics\n    server leader {} check inter 50ms\n    server follower {} check inter 50ms\n",
        cluster.folder.join("stats").display(),
        leader.address,
        follower.address
    );
    let haproxy = Haproxy::start(&Versions::usual(), &cluster.folder, &configuration);
    wait_until("the follower is down", || {
        haproxy.server("ui", "follower")["status"] == "DOWN"
    });
    assert_eq!(haproxy.server("ui", "follower")["check_code"], "503");
    wait_until("the leader is up", || {
        haproxy.server("ui", "leader")["check_code"] == "200"
    });
    assert!(haproxy.is_up("ui", "leader"));
}
