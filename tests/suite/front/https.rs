//! An operator's own settings in /etc/haproxy/cmonhachk.d; among them the example of deploy/haproxy/https.cfg, on a
//! host that is no node. The nodes' UIs say whom they see.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::site::*;
use crate::cluster::{PATIENCE, wait_until};

const OWN: &str = "/etc/haproxy/cmonhachk.d";
const RELOAD: &str = "systemctl reload cmonhachk-front";

/// What the operator types. The folder is named by the package.
const AS_THE_EXAMPLE_SAYS: &str = "cp /usr/share/doc/cmonhachk/examples/https.cfg /etc/haproxy/cmonhachk.d; \
    systemctl reload cmonhachk-front";

/// Answers a request with the node's name, `$1`, and the addresses that it is told. With /stay it goes on, until the
/// connection ends.
const UI: &str = r#"
    read -r method path version
    while read -r name value && [ ${#name} -gt 1 ]; do
        case $name in
        [Xx]-[Ff]orwarded-[Ff]or:) addresses="$addresses$value" ;;
        esac
    done
    said=$(printf '%s serves %s' "$1" "$addresses" | tr -d '\r')
    case $path in
    /stay)
        printf 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
        while printf '%x\r\n%s\n\r\n' $((${#said} + 1)) "$said"; do sleep 0.1; done
        ;;
    *) printf 'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s' ${#said} "$said" ;;
    esac"#;

/// A new certificate for an address, and its key.
pub fn certificate(address: &str) -> String {
    let kind = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test";
    let arguments = format!("{kind} -keyout - -out - -addext subjectAltName=IP:{address}");
    let made = Command::new("openssl").args(arguments.split(' ')).output();
    let made = made.expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap()
}

/// Makes the first node a host that is none: its HAProxy is for the other two, and port 443 is free. Those have UIs
/// with certificates of their own.
pub fn a_host_of_its_own_serves_https_by_the_example(site: &Site) {
    let [host, nodes @ ..] = &site.nodes[..] else {
        unreachable!()
    };
    for node in nodes {
        node.stops_ui();
        node.put("opt/ui.pem", &certificate("192.0.2.1"));
        node.put("opt/ui", UI);
        node.run(&format!(
            "systemd-run --quiet socat OPENSSL-LISTEN:443,fork,reuseaddr,cert=/opt/ui.pem,verify=0 SYSTEM:'sh /opt/ui {}'",
            node.name
        ));
    }
    host.stops_ui();
    host.succeeds("--haproxy-only 10.0.0.102 10.0.0.103");
    host.put("etc/haproxy/cmonhachk.pem", &certificate("10.0.0.101"));
    host.run(AS_THE_EXAMPLE_SAYS);
    wait_until("HTTPS is served", || get(site, HTTPS) == "node2 serves 10.0.0.200");
}

/// Where users go.
const HTTPS: &str = "https://10.0.0.101/";

/// A user's curl, which believes only the host's certificate.
fn curl(site: &Site, arguments: &str) -> Command {
    let certificate = site.nodes[0].systemd.root().join("etc/haproxy/cmonhachk.pem");
    let mut curl = Command::new("ip");
    let command = format!(
        "netns exec {} curl --silent --show-error --max-time 20 --cacert",
        site.network.0
    );
    curl.args(command.split(' '))
        .arg(certificate)
        .args(arguments.split(' '));
    curl
}

fn get(site: &Site, arguments: &str) -> String {
    let output = curl(site, arguments).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

pub fn the_ui_is_told_the_users_own_address_and_no_other(site: &Site) {
    for version in ["--http1.1", "--http2"] {
        let said = get(site, &format!("{version} --header X-Forwarded-For:10.9.9.9 {HTTPS}"));
        assert_eq!(said, "node2 serves 10.0.0.200", "{version}");
    }
}

pub fn http_is_sent_to_https(site: &Site) {
    let where_to = get(site, "--write-out %{redirect_url} http://10.0.0.101/clusters?id=1");
    assert_eq!(where_to, "https://10.0.0.101/clusters?id=1");
}

/// Not so HAProxy 2.4.0, which cannot hand over its sockets while it serves (deploy/README.md).
pub fn a_reload_refuses_nobody(site: &Site) {
    let host = &site.nodes[0];
    let (start, mut reloads, mut answers) = (Instant::now(), 0, BTreeMap::new());
    // On a busy machine, each takes a while.
    let is_enough = |answers: &BTreeMap<String, u32>| answers.values().sum::<u32>() > 20;
    while start.elapsed() < Duration::from_secs(4) || !is_enough(&answers) && start.elapsed() < PATIENCE {
        if start.elapsed() > Duration::from_secs(reloads) {
            succeeds(host, RELOAD);
            reloads += 1;
        }
        *answers.entry(get(site, HTTPS)).or_insert(0) += 1;
    }
    let right = answers.remove("node2 serves 10.0.0.200").unwrap_or(0);
    assert!(right > 10, "{answers:?}");
    if !host.run("haproxy -v").contains("2.4.0") {
        assert!(answers.is_empty(), "{answers:?}");
    }
}

pub fn users_are_on_the_new_leader_after_a_move_and_sessions_on_the_old_one_have_ended(site: &Site) {
    let mut session = Session::begin(site);
    assert_eq!(session.next(), Some("node2 serves 10.0.0.200".to_string()));
    for node in &site.nodes {
        node.hears("node3");
    }
    wait_until("the new leader serves", || {
        get(site, HTTPS) == "node3 serves 10.0.0.200"
    });
    let moved = Instant::now();
    while session.next().is_some() {
        assert!(
            moved.elapsed() < Duration::from_secs(5),
            "the session is still on the old leader"
        );
    }
    for node in &site.nodes {
        node.hears("node2");
    }
    wait_until("the former leader serves", || {
        get(site, HTTPS) == "node2 serves 10.0.0.200"
    });
}

/// A long answer, line by line.
struct Session(Child);

impl Session {
    fn begin(site: &Site) -> Session {
        let mut curl = curl(site, &format!("--no-buffer {HTTPS}stay"));
        Session(curl.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// None at its end.
    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        // The UI waits between two lines, so nothing that is read ahead is lost.
        let count = BufReader::with_capacity(1, self.0.stdout.as_mut()?)
            .read_line(&mut line)
            .unwrap();
        (count > 0).then(|| line.trim_end().to_string())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn without_a_leader_users_are_held_for_two_seconds_and_told_so(site: &Site) {
    for node in &site.nodes {
        node.hears("nobody");
    }
    wait_until("nobody leads", || site.nodes[0].counts_as_up().is_empty());
    let start = Instant::now();
    let said = get(site, &format!("--write-out _%{{http_code}} {HTTPS}"));
    let held = start.elapsed();
    eprintln!("held for {held:.2?}");
    assert_eq!(
        said,
        "No leading ClusterControl controller can be reached now. Try again soon._503"
    );
    assert!(
        held > Duration::from_millis(1900) && held < Duration::from_secs(5),
        "{held:?}"
    );

    // Who is held goes on with the new leader.
    let user = curl(site, HTTPS).stdout(Stdio::piped()).spawn().unwrap();
    for node in &site.nodes {
        node.hears("node2");
    }
    let said = user.wait_with_output().unwrap().stdout;
    assert_eq!(String::from_utf8(said).unwrap(), "node2 serves 10.0.0.200");
}

/// HAProxy takes only what is named *.cfg, and starts and reloads without the folder.
pub fn other_files_in_the_folder_are_left_alone_and_it_may_be_missing(site: &Site) {
    let host = &site.nodes[0];
    let serves = || wait_until("HTTPS is served", || get(site, HTTPS) == "node2 serves 10.0.0.200");
    host.run(&format!(
        "cd {OWN}; for name in note.txt old.cfg.bak .hidden.cfg; do echo nonsense >$name; done; mkdir folder.cfg"
    ));
    succeeds(host, RELOAD);
    serves();
    for act in ["reload", "restart"] {
        host.run(&format!("mv {OWN} /opt/kept"));
        succeeds(host, &format!("systemctl {act} cmonhachk-front"));
        wait_until("port 81 is served and 443 is not", || {
            get(site, "--insecure https://10.0.0.101:81/") == "node2 serves "
                && get(site, HTTPS).contains("Failed to connect")
        });
        host.run(&format!("rmdir {OWN} && mv /opt/kept {OWN}"));
        succeeds(host, RELOAD);
        serves();
    }
}

pub fn a_file_that_haproxy_refuses_fails_the_reload_and_users_do_not_notice(site: &Site) {
    let host = &site.nodes[0];
    host.run(&format!("echo nonsense >{OWN}/bad.cfg"));
    let output = host.systemd.output(RELOAD);
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(get(site, HTTPS), "node2 serves 10.0.0.200");
    host.run(&format!("rm {OWN}/bad.cfg"));
    succeeds(host, RELOAD);
}

pub fn a_start_with_such_a_file_is_tried_once_a_second_until_it_is_mended(site: &Site) {
    let host = &site.nodes[0];
    host.run(&format!(
        "echo nonsense >{OWN}/bad.cfg; systemctl restart cmonhachk-front"
    ));
    let starts = || {
        let count = host.run("systemctl show --property NRestarts --value cmonhachk-front");
        count.trim().parse::<u32>().unwrap()
    };
    let (begun, before) = (Instant::now(), starts());
    wait_until("it was tried three times more", || starts() >= before + 3);
    assert!(begun.elapsed() > Duration::from_secs(2), "{:?}", begun.elapsed());
    host.run(&format!("rm {OWN}/bad.cfg"));
    wait_until("HTTPS is served", || get(site, HTTPS) == "node2 serves 10.0.0.200");
}

fn succeeds(node: &Node, command: &str) {
    let output = node.systemd.output(command);
    assert!(output.status.success(), "{command}: {output:?}");
}

/// What deploy/README.md says about a longer `timeout check`, but with a shorter one: a check that gets no answer ends
/// after this time.
pub fn a_time_limit_of_checks_in_the_folder_is_used_after_a_restart(site: &Site) {
    let host = &site.nodes[0];
    host.run(&format!(
        "echo CMONHACHK_TIMEOUT_CHECK=700ms >{OWN}/environment; systemctl restart cmonhachk-front"
    ));
    site.nodes[2].freeze(true);
    wait_until("a check has run into its limit", || {
        let table = host.admin("show stat");
        let titles = table.lines().next().unwrap_or_default().split(',');
        let Some(row) = table.lines().find(|line| line.starts_with("role,node2,")) else {
            return false;
        };
        let column = |name| {
            titles
                .clone()
                .zip(row.split(','))
                .find(|(title, _)| *title == name)
                .unwrap()
                .1
        };
        let ended: u32 = column("check_duration").parse().unwrap_or(0);
        assert!(ended < 1900, "{ended} ms");
        column("check_status").ends_with("TOUT") && ended >= 690
    });
    site.nodes[2].freeze(false);
}

pub fn neither_a_run_nor_a_removal_of_the_front_touches_the_folder(site: &Site) {
    let host = &site.nodes[0];
    let folder = format!("cd {OWN}; find . -print0 | sort -z | xargs -0 stat --format '%n %i %a %U %.9Y %.9Z'");
    let before = host.run(&folder);
    assert!(before.contains("./https.cfg "), "{before}");
    host.succeeds("--stats-port 9601");
    host.succeeds("--remove");
    assert_eq!(host.run(&folder), before);
}
