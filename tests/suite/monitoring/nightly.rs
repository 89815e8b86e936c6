//! The real Prometheus watches three booted nodes by the example, and each alert fires.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;

use super::rules;
use crate::cluster::{Daemon, Folder, project, wait_until};
use crate::front::site::{Node, SITE, Site, VIRTUAL, inside};
use crate::packages::commands;
use crate::versions::Versions;

/// How often it scrapes. A check may take as long as that.
const INTERVAL: &str = "1s";
/// How long an alert waits. Longer than a move takes, and the scrape after it.
const FOR: &str = "for: 4s";

const URL: &str = "http://127.0.0.1:9090";

/// A Prometheus on the client's host.
struct Prometheus<'a> {
    site: &'a Site,
    _process: Daemon,
    _folder: Folder,
}

impl<'a> Prometheus<'a> {
    /// Starts it with this configuration, and the alerts with shorter times.
    fn start(site: &'a Site, configuration: &str) -> Prometheus<'a> {
        Prometheus::start_with(site, configuration, &shortened(&rules()))
    }

    fn start_with(site: &'a Site, configuration: &str, rules: &str) -> Prometheus<'a> {
        let folder = Folder::new();
        folder.write("cmonhachk.rules.yml", rules);
        let configuration = folder.write("prometheus.yml", configuration);
        let process = site.network.daemon(&format!(
            "prometheus --config.file={} --storage.tsdb.path={} --web.listen-address=127.0.0.1:9090 --log.level=warn",
            configuration.display(),
            folder.join("data").display(),
        ));
        let prometheus = Prometheus {
            site,
            _process: process,
            _folder: folder,
        };
        wait_until("Prometheus has scraped", || prometheus.query("sum(up)").contains("=> "));
        prometheus
    }

    /// What a program prints that runs on the same host.
    fn client(&self, program: &str, arguments: &[&str]) -> String {
        inside(&self.site.network.file(), || {
            let output = Command::new(program).args(arguments).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// The value of an expression now, as promtool prints it.
    fn query(&self, expression: &str) -> String {
        // It is asked again and again, and takes processor time.
        thread::sleep(Duration::from_millis(200));
        self.client("promtool", &["query", "instant", URL, expression])
    }

    /// The names of the alerts in the series of this expression, without what all begin with.
    fn names(&self, expression: &str) -> BTreeSet<String> {
        let by_name = format!("count by (alertname) ({expression})");
        let said = self.query(&by_name);
        let name = Regex::new("alertname=\"ClusterControl(\\w+)\"").unwrap();
        name.captures_iter(&said).map(|found| found[1].to_string()).collect()
    }

    /// These alerts fire, and no others.
    fn fires(&self, names: &[&str]) {
        let names: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
        let mut last = BTreeSet::new();
        let start = Instant::now();
        wait_until(&format!("{names:?} fire"), || {
            let now = self.names(r#"ALERTS{alertstate="firing"}"#);
            if now != last {
                eprintln!("{:.1?}: {now:?} of {names:?}", start.elapsed());
                last.clone_from(&now);
            }
            now == names
        });
    }

    /// The leadership moves to this node, and no alert fires then, nor has one since the start.
    fn is_quiet_when_it_moves(&self, leader: &str) {
        leads(self.site, leader);
        let instance = format!("{}:9201", leader.replace("node", "10.0.0.10"));
        let selector = format!(r#"{{job="cmonhachk", instance="{instance}", state="leader"}}"#);
        // Longer than an alert waits.
        let has_led = format!("min_over_time(cmonhachk_state{selector}[6s])");
        wait_until("the new leader was seen to lead for a while", || {
            self.query(&has_led).contains("=> 1 ")
        });
        let mut fired = self.ever_fired();
        // Prometheus itself begins to scrape only 5 s after its start.
        fired.remove("NotScraped");
        assert_eq!(fired, BTreeSet::new());
    }

    fn ever_fired(&self) -> BTreeSet<String> {
        self.names(r#"count_over_time(ALERTS{alertstate="firing"}[1h])"#)
    }

    /// What is told with the alerts.
    fn annotations(&self) -> String {
        self.client("curl", &["--silent", &format!("{URL}/api/v1/alerts")])
    }
}

fn deployed() -> String {
    fs::read_to_string(project().join("deploy/monitoring/prometheus.yml")).unwrap()
}

/// The deployed example, with a short interval and without these jobs.
fn example(without: &[&str]) -> String {
    let text = deployed();
    assert!(text.contains("interval: 15s\n"));
    let text = text.replace("interval: 15s\n", &format!("interval: {INTERVAL}\n"));
    let is_left_out = |part: &str| without.iter().any(|job| part.contains(&format!("job_name: {job}\n")));
    let parts: Vec<&str> = text.split("\n\n").filter(|part| !is_left_out(part)).collect();
    assert_eq!(parts.len() + without.len(), text.split("\n\n").count());
    parts.join("\n\n")
}

fn shortened(rules: &str) -> String {
    let wait = Regex::new("(?m)for: [0-9]+[smh]$").unwrap();
    assert_eq!(wait.find_iter(rules).count(), super::alerts(rules).len());
    wait.replace_all(rules, FOR).into_owned()
}

/// What fires after something has happened, and what ends it.
struct Case {
    alerts: &'static [&'static str],
    cause: fn(&Site),
    cure: fn(&Site),
}

fn try_each(prometheus: &Prometheus<'_>, cases: &[Case]) {
    for case in cases {
        (case.cause)(prometheus.site);
        prometheus.fires(case.alerts);
        (case.cure)(prometheus.site);
        prometheus.fires(&[]);
    }
}

fn leads(site: &Site, leader: &str) {
    for node in &site.nodes {
        node.hears(leader);
    }
}

/// Runs a command on each node.
fn on_each(site: &Site, command: &str) {
    for node in &site.nodes {
        node.run(command);
    }
}

fn third(site: &Site) -> &Node {
    &site.nodes[2]
}

/// What does not depend on the way.
const OF_THE_NODES: &[Case] = &[
    Case {
        alerts: &["NoLeader"],
        cause: |site| leads(site, "nobody"),
        cure: |site| leads(site, "node2"),
    },
    Case {
        alerts: &["SeveralLeaders"],
        cause: |site| third(site).hears("node3"),
        cure: |site| third(site).hears("node2"),
    },
    Case {
        alerts: &["RoleUnknown"],
        cause: |site| third(site).behaves("no-home"),
        cure: |site| third(site).behaves("list"),
    },
    Case {
        alerts: &["BackOff", "RoleUnknown"],
        cause: |site| third(site).behaves("wrong-password"),
        cure: |site| {
            third(site).behaves("list");
            third(site).run("touch /var/lib/cmonhachk/.s9s/s9s.conf");
        },
    },
    Case {
        alerts: &["CheckDown"],
        cause: |site| {
            third(site).run("systemctl stop cmonhachk.socket cmonhachk.service");
        },
        cure: |site| {
            third(site).run("systemctl start cmonhachk.socket");
        },
    },
    Case {
        alerts: &["MaintenanceForgotten"],
        cause: |site| {
            third(site).run("echo new disks >/run/cmonhachk.maintenance");
        },
        cure: |site| {
            third(site).run("rm /run/cmonhachk.maintenance");
        },
    },
    Case {
        alerts: &["AddressDown"],
        cause: |site| on_each(site, "systemctl stop keepalived"),
        cure: |site| on_each(site, "systemctl start keepalived"),
    },
];

const WITH_HAPROXY: &[Case] = &[
    Case {
        alerts: &["CheckDown", "NoLeader"],
        cause: stop_checks,
        cure: start_checks,
    },
    Case {
        alerts: &["FrontDown"],
        cause: |site| {
            third(site).run("systemctl stop cmonhachk-front");
        },
        cure: |site| {
            third(site).run("systemctl start cmonhachk-front");
        },
    },
    Case {
        alerts: &["AddressDown", "FrontDown", "NoFront"],
        cause: |site| on_each(site, "systemctl stop cmonhachk-front"),
        cure: |site| on_each(site, "systemctl start cmonhachk-front"),
    },
    Case {
        alerts: &["FrontWithoutLeader"],
        cause: |site| site.nodes[1].stops_ui(),
        cure: |site| site.nodes[1].starts_ui(),
    },
    // The leader's machine stands still.
    Case {
        alerts: &["CheckDown", "FrontDown", "NoLeader"],
        cause: |site| {
            site.puts_address_on("node1");
            site.nodes[1].freeze(true);
        },
        cure: |site| site.nodes[1].freeze(false),
    },
];

/// Without HAProxy, the check at the address is asked.
const WITHOUT_HAPROXY: &[Case] = &[
    Case {
        alerts: &["AddressDown", "CheckDown", "NoLeader"],
        cause: stop_checks,
        cure: start_checks,
    },
    // The address goes to a node whose UI answers.
    Case {
        alerts: &["AddressElsewhere"],
        cause: |site| site.nodes[1].stops_ui(),
        cure: |site| site.nodes[1].starts_ui(),
    },
];

#[test]
fn with_haproxy_each_alert_fires_and_none_at_a_move() {
    let site = Site::boot(&Versions::usual());
    site.succeeds(&format!("--stats-from 10.0.0.200 {SITE}"));
    site.puts_address_on("node1");
    let prometheus = Prometheus::start(&site, &example(&[]));
    for leader in ["node3", "node2"] {
        prometheus.is_quiet_when_it_moves(leader);
    }
    try_each(&prometheus, OF_THE_NODES);
    try_each(&prometheus, WITH_HAPROXY);
    an_alert_has_the_reason(&prometheus);
    a_slow_s9s_alerts(&prometheus);
    let mut fired = prometheus.ever_fired();
    drop(prometheus);
    a_configuration_without_the_nodes_alerts(&site);

    // And that of the other way.
    fired.extend(["NotScraped", "AddressElsewhere"].map(str::to_string));
    let rules = rules();
    let all = super::alerts(&rules).into_iter();
    assert_eq!(fired, all.map(|name| name.replace("ClusterControl", "")).collect());
}

#[test]
fn without_haproxy_each_alert_fires_and_none_at_a_move() {
    let site = Site::without_haproxy(&Versions::usual());
    wait_until("the address is on the leader", || site.holders(VIRTUAL) == ["node2"]);
    let configuration = example(&["cmonhachk-front"]).replace("10.0.0.130:9600", "10.0.0.130:9201");
    let prometheus = Prometheus::start(&site, &configuration);
    for leader in ["node3", "node2"] {
        prometheus.is_quiet_when_it_moves(leader);
    }
    try_each(&prometheus, OF_THE_NODES);
    try_each(&prometheus, WITHOUT_HAPROXY);
}

fn stop_checks(site: &Site) {
    on_each(site, "systemctl stop cmonhachk.socket cmonhachk.service");
}

fn start_checks(site: &Site) {
    on_each(site, "systemctl start cmonhachk.socket");
}

fn an_alert_has_the_reason(prometheus: &Prometheus<'_>) {
    let node = third(prometheus.site);
    node.behaves("no-home");
    prometheus.fires(&["RoleUnknown"]);
    let told = prometheus.annotations();
    assert!(
        told.contains("10.0.0.103:9201 does not know its role: s9s-no-user"),
        "{told}"
    );
    node.behaves("list");
    prometheus.fires(&[]);
}

/// With the program's own time limit: the other steps have a longer one.
fn a_slow_s9s_alerts(prometheus: &Prometheus<'_>) {
    let node = third(prometheus.site);
    let file = "/etc/systemd/system/cmonhachk.service.d/slow.conf";
    let restart = "systemctl daemon-reload; systemctl restart cmonhachk.service";
    node.run(&format!(
        "printf '[Service]\\nEnvironment=CMONHACHK_TIMEOUT=1.5\\n' >{file}; {restart}"
    ));
    node.behaves("slow 0.8");
    prometheus.fires(&["S9sSlow"]);
    node.behaves("list");
    prometheus.fires(&[]);
    node.run(&format!("rm {file}; {restart}"));
}

fn a_configuration_without_the_nodes_alerts(site: &Site) {
    let renamed = example(&[]).replace("job_name: cmonhachk\n", "job_name: another\n");
    Prometheus::start(site, &renamed).fires(&["NotScraped"]);
}

/// With the files as they are: the leader's machine has the address, too, and cmon needs its time to elect another.
#[test]
fn a_failover_alerts_nobody() {
    const ELECTION: Duration = Duration::from_millis(7500);
    const LONGEST_OF_THE_CRITICAL: Duration = Duration::from_secs(60);
    const INTERVAL: Duration = Duration::from_secs(15);
    let site = Site::boot(&Versions::usual());
    site.succeeds(&format!("--stats-from 10.0.0.200 {SITE}"));
    site.puts_address_on("node2");
    let prometheus = Prometheus::start_with(&site, &deployed(), &rules());
    wait_until("all is scraped", || prometheus.query("sum(up)").contains("=> 7 "));

    site.nodes[1].freeze(true);
    thread::sleep(ELECTION);
    for number in [0, 2] {
        site.nodes[number].hears("node1");
    }
    let start = Instant::now();
    while start.elapsed() < LONGEST_OF_THE_CRITICAL + 2 * INTERVAL {
        assert_eq!(prometheus.ever_fired(), BTreeSet::new());
    }
    let noticed = prometheus.names(r#"count_over_time(ALERTS{alertstate="pending"}[5m])"#);
    eprintln!("pending: {noticed:?}");
    assert!(noticed.contains("CheckDown"), "{noticed:?}");
    assert_eq!(site.user_gets(VIRTUAL).as_deref(), Some("node1"));
    site.nodes[1].freeze(false);
}

/// Debian's Prometheus, which runs on a node here, with the two files as the package has them.
#[test]
fn the_packaged_files_are_taken_into_debians_prometheus_as_the_manual_says() {
    let site = Site::boot(&Versions::usual());
    let node = &site.nodes[0];
    node.run("systemctl start prometheus");
    let ask = |path: &str| node.run(&format!("curl --silent --max-time 5 '{URL}/{path}'"));
    wait_until("it runs", || ask("-/ready").contains("Ready"));
    node.run("cp /usr/share/doc/cmonhachk/examples/prometheus.yml /etc/prometheus");
    let take = commands("install -m 644 cmonhachk.rules.yml");
    let done = node
        .systemd
        .output(&format!("set -e; cd /usr/share/doc/cmonhachk/examples\n{take}"));
    assert!(done.status.success(), "{done:?}");
    wait_until("it has the alerts and scrapes each node", || {
        let rules = ask("api/v1/rules");
        super::alerts(&super::rules()).iter().all(|alert| rules.contains(alert))
            && ask("api/v1/query?query=count(cmonhachk_build_info%7Bjob=%22cmonhachk%22%7D)").contains("\"3\"]")
    });
}
