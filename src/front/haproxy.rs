//! Our HAProxy: its configuration, its service and its statistics.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use cmonhachk::client::{http, state};
use cmonhachk::os::text::clean;

use crate::failure::{Failure, Outcome, fail};
use crate::host::{self, Run, within};
use crate::options::memory;
use crate::site::Site;
use crate::template::{self, Field, field, list};

/// Our configuration.
pub const CONFIGURATION: &str = "/etc/haproxy/cmonhachk.cfg";
/// The operator's own files, which our HAProxy reads after ours.
pub const OWN_FILES: &str = "/etc/haproxy/cmonhachk.d";
/// Our service.
pub const SERVICE: &str = "cmonhachk-front.service";
/// keepalived follows this file, see the unit and the template.
pub const FOLLOWED: &str = "/run/keepalived-cmonhachk/haproxy";
/// This host, for its own programs.
pub const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The header by which our HAProxy is known.
const HEADER: &str = "Cmonhachk-Front";

const TEMPLATE: &str = "/usr/share/cmonhachk/haproxy.cfg";
const LUA: &str = "/usr/share/cmonhachk/leader.lua";
/// The last configuration that HAProxy has served, because a run may be interrupted before it has looked.
const SERVED: &str = "/run/cmonhachk-front/served.cfg";

/// How long HAProxy may need to read a configuration and to begin to serve it.
const RELOAD: Duration = Duration::from_secs(10);
/// How long the statistics may need.
const STATISTICS: Duration = Duration::from_secs(3);
/// Some 700 bytes a line; six nodes need 15 lines.
const MAX_STATISTICS: usize = 64 * 1024;

/// The configuration for this site.
pub fn configuration(site: &Site) -> Outcome<String> {
    let text = template::fill_file(TEMPLATE, &fields(site))?;
    let text = memory(&site.arguments) + &text;
    Ok(sign(&text, &signature(&text)))
}

fn fields(site: &Site) -> Vec<Field> {
    let bind = |port: u16| match site.nodes.iter().any(IpAddr::is_ipv6) {
        true => format!("[::]:{port} v4v6"),
        false => format!(":{port}"),
    };
    let servers = |what: &dyn Fn(usize) -> String| {
        let servers = site.nodes.iter().enumerate();
        let line = |(place, node): (usize, &IpAddr)| {
            let socket = SocketAddr::new(*node, site.ui_port);
            format!("{} {socket} {}", server_name(place), what(place))
        };
        servers.map(line).collect()
    };
    // Each node has a bit of its own.
    let checked = servers(&|place| format!("id {}", 1 << place));
    let tracking = servers(&|place| format!("track role/{}", server_name(place)));
    vec![
        field("socket", "/run/haproxy/", "/run/cmonhachk-front/"),
        field("checked-port", "443", site.ui_port),
        list("server", "node1 10.0.0.101:443 id 1", checked),
        field("front-bind", ":81", bind(site.front_port)),
        list("user-server", "node1 10.0.0.101:443 track role/node1", tracking),
        field("stats-bind", ":9600", bind(site.stats_port)),
        field("stats-from", "127.0.0.0/8 10.0.0.0/24", stats_from(site)),
        field("signature", "yes", UNSIGNED),
    ]
}

/// The node with this place, as HAProxy names it.
fn server_name(place: usize) -> String {
    format!("node{}", place + 1)
}

/// Who may read the statistics.
fn stats_from(site: &Site) -> String {
    let own = ["127.0.0.0/8", "::1"].map(str::to_string);
    let nodes = site.vip.iter().chain(&site.nodes).map(IpAddr::to_string);
    let others = site.stats_from.iter().map(|list| list.replace(',', " "));
    own.into_iter().chain(nodes).chain(others).collect::<Vec<_>>().join(" ")
}

const UNSIGNED: &str = "unsigned";

fn sign(text: &str, signature: &str) -> String {
    text.replace(&format!("{HEADER} {UNSIGNED}"), &format!("{HEADER} {signature}"))
}

/// What tells this configuration, and the Lua action that HAProxy reads with it, from another one. After a change of
/// their own files, operators reload HAProxy themselves.
fn signature(unsigned: &str) -> String {
    let mut hasher = DefaultHasher::new();
    unsigned.hash(&mut hasher);
    host::text_of(LUA).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The signature in a configuration.
fn signature_in(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(&format!("set-header {HEADER} "))?;
    rest.split_whitespace().next()
}

/// Whether a configuration, and the Lua action with it, is as the run has signed it.
fn is_as_signed(text: &str) -> bool {
    let Some(signed) = signature_in(text) else { return false };
    signature(&sign_back(text, signed)) == signed
}

fn sign_back(text: &str, signed: &str) -> String {
    text.replace(&format!("{HEADER} {signed}"), &format!("{HEADER} {UNSIGNED}"))
}

/// # Errors
/// HAProxy is too old.
pub fn check_version() -> Outcome<()> {
    let said = host::run("haproxy", &["-v"]).output;
    let version = said.split_whitespace().nth(2).unwrap_or_default();
    let is_of_version = |letter: char| letter.is_ascii_digit() || letter == '.';
    let version: String = version.chars().take_while(|letter| is_of_version(*letter)).collect();
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (2, 4) {
        true => Ok(()),
        false => fail(format!("HAProxy 2.4 or later is needed, and this is {version}")),
    }
}

/// # Errors
/// HAProxy does not accept the file.
pub fn check(file: &str) -> Outcome<()> {
    let mut arguments = vec!["-c", "-f", file];
    if host::exists(OWN_FILES) {
        arguments.extend(["-f", OWN_FILES]);
    }
    let said = host::run("haproxy", &arguments);
    match said.succeeded {
        true => Ok(()),
        false => fail(format!(
            "haproxy refuses the configuration that it would get: {}{}",
            said.output, said.errors
        )),
    }
}

/// Whether the HAProxy at this port has read the configuration with this signature.
fn serves(port: u16, signature: &str) -> bool {
    mark(LOCAL, port).as_deref() == Some(signature)
}

/// Whether HAProxy serves its file as the last run has written it.
pub fn serves_its_file(port: u16) -> bool {
    let text = host::text_of(CONFIGURATION).unwrap_or_default();
    is_as_signed(&text) && signature_in(&text).is_some_and(|signature| serves(port, signature))
}

/// Starts or reloads HAProxy, unless it serves this configuration already. A reload that fails leaves the former
/// process, and nobody is told, so only an answer from the new one counts. `former` is the file before this run.
///
/// # Errors
/// It does not serve the configuration. Then the former one is in place again, if there was one.
pub fn start(site: &Site, text: &str, former: Option<String>, run: &mut Run) -> Outcome<()> {
    host::enable(run, SERVICE)?;
    let signature = signature_in(text).unwrap_or_default();
    let is_reload = host::is_active(SERVICE);
    if is_reload && serves(site.stats_port, signature) {
        keep_served(text, run);
        return Ok(());
    }
    let Some(verb) = run.start_or_reload(SERVICE, is_reload) else {
        return Ok(());
    };
    let began = host::run("date", &["+%F %T"]).output;
    if !is_reload {
        // A start that is under way has read the former configuration.
        host::succeeds("systemctl", &["stop", SERVICE]);
    }
    let serves = || serves(site.stats_port, signature).then_some(());
    if host::succeeds("systemctl", &[verb, SERVICE]) && within(RELOAD, serves).is_some() {
        keep_served(text, run);
        return Ok(());
    }
    Err(Failure::of_lines(give_up(is_reload, began.trim(), former, run)?))
}

/// What an operator reads when HAProxy does not serve the new configuration. What it served before comes back.
fn give_up(is_reload: bool, began: &str, former: Option<String>, run: &mut Run) -> Outcome<Vec<String>> {
    let mut lines = vec![format!(
        "HAProxy does not serve the new configuration: see journalctl --unit {SERVICE}"
    )];
    lines.extend(allow(ports_in_journal(began)));
    lines.push(match is_reload {
        true => restore(former, run)?,
        false => {
            host::succeeds("systemctl", &["stop", SERVICE]);
            "HAProxy does not run here.".to_string()
        }
    });
    Ok(lines)
}

fn keep_served(text: &str, run: &Run) {
    // The unit makes the folder. Without the copy, the next run restores the file that was there.
    if !run.dry_run && host::text_of(SERVED).as_deref() != Some(text) {
        let _ = fs::write(SERVED, text);
    }
}

/// Puts back what HAProxy has served last.
fn restore(former: Option<String>, run: &mut Run) -> Outcome<String> {
    let Some(served) = host::text_of(SERVED).or(former) else {
        return Ok("There is no former configuration.".to_string());
    };
    host::put(run, CONFIGURATION, &served)?;
    let signature = signature_in(&served).unwrap_or_default();
    let serves = || serves(stats_port_in(&served)?, signature).then_some(());
    let is_back = host::succeeds("systemctl", &["reload-or-restart", SERVICE]) && within(RELOAD, serves).is_some();
    Ok(match is_back {
        true => "The former configuration is in place again.",
        false => "HAProxy does not serve the former configuration, either.",
    }
    .to_string())
}

fn stats_port_in(text: &str) -> Option<u16> {
    let (_, listen) = text.split_once("listen stats")?;
    let bind = listen.lines().find_map(|line| line.trim().strip_prefix("bind "))?;
    let (_, port) = bind.split_whitespace().next()?.rsplit_once(':')?;
    port.parse().ok()
}

/// The ports that HAProxy was denied, by its words at a start: cannot bind socket (Permission denied) [0.0.0.0:82]
fn ports_in_journal(since: &str) -> Vec<u16> {
    host::run("journalctl", &["--sync"]);
    let arguments = ["--quiet", "--output", "cat", "--unit", SERVICE, "--since", since];
    let said = host::run("journalctl", &arguments).output;
    said.lines().filter_map(denied_port).collect()
}

fn denied_port(line: &str) -> Option<u16> {
    if !line.contains("cannot bind") || !line.contains("ermission denied") {
        return None;
    }
    let (_, rest) = line.rsplit_once(':')?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The commands that allow HAProxy these ports under SELinux. Nothing where SELinux does not deny anything.
pub fn allow(mut ports: Vec<u16>) -> Vec<String> {
    let is_enforcing = host::text_of("/sys/fs/selinux/enforce").is_some_and(|text| text.trim() == "1");
    if !is_enforcing {
        return Vec::new();
    }
    ports.sort();
    ports.dedup();
    let command = |port: &u16| {
        format!(
            "SELinux denies HAProxy port {port}: semanage port -a -t http_port_t -p tcp {port} \
             (-m for -a if the port has another type that nobody needs)"
        )
    };
    ports.iter().map(command).collect()
}

/// Makes the folder of [`FOLLOWED`]. keepalived ignores a file to follow if its folder is missing when it reads its
/// configuration. Returns whether keepalived must read it again.
pub fn make_folder(run: &mut Run) -> bool {
    let folder = "/run/keepalived-cmonhachk";
    if host::exists(folder) || !run.change(&format!("Makes {folder}")) {
        return false;
    }
    host::succeeds("systemd-tmpfiles", &["--create", "cmonhachk.conf"])
}

/// Repairs [`FOLLOWED`], which the unit writes when HAProxy starts, also after an upgrade from another place.
pub fn tell_keepalived(run: &mut Run) {
    if !host::is_active(SERVICE) || is_told() || !run.change(&format!("Writes {FOLLOWED}")) {
        return;
    }
    let _ = fs::write(FOLLOWED, "1\n");
    if !host::is_active(SERVICE) {
        let _ = fs::write(FOLLOWED, "0\n");
    }
}

/// Whether keepalived is told that HAProxy runs.
pub fn is_told() -> bool {
    host::text_of(FOLLOWED).is_some_and(|text| text.trim() == "1")
}

/// A line of HAProxy's statistics, by the names of the columns.
type Row = BTreeMap<String, String>;

/// The statistics of the HAProxy at this address.
fn statistics(at: IpAddr, port: u16) -> Option<Vec<Row>> {
    let answer = http::get(SocketAddr::new(at, port), "/;csv", STATISTICS, MAX_STATISTICS).ok()?;
    (answer.status() == Some(200)).then(|| rows(&answer.body))
}

/// The rows of a table with commas between the columns, whose first line has their names after `# `.
fn rows(text: &str) -> Vec<Row> {
    let mut lines = text.lines();
    let names = columns(lines.next().unwrap_or_default().trim_start_matches("# "));
    let row = |line: &str| names.iter().cloned().zip(columns(line)).collect();
    lines.filter(|line| !line.is_empty()).map(row).collect()
}

/// Text in quotes may have commas, and a quote that is doubled. Text that could control the terminal is cleaned.
fn columns(line: &str) -> Vec<String> {
    let mut columns = vec![String::new()];
    let mut is_quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => columns.push(String::new()),
            letter => columns.last_mut().expect("there is one").push(letter),
        }
    }
    columns.iter().map(|column| clean(column, 200)).collect()
}

/// What HAProxy says of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// `UP`, `DOWN`, `DOWN (agent)` and so on.
    pub status: String,
    /// The last check's result, in short.
    pub check: String,
    /// The same in words, as far as HAProxy has any.
    pub last_words: String,
    /// The last result of the agent check.
    pub agent: String,
    /// How many users were sent there since the start.
    pub users: u64,
}

impl View {
    /// Whether its check has passed. Until its first check has ended, HAProxy counts a server as up.
    pub fn has_passed(&self) -> bool {
        self.is_up() && self.check.trim_start_matches("* ") == "L4OK"
    }

    /// Whether HAProxy counts it as up.
    pub fn is_up(&self) -> bool {
        self.status.starts_with("UP")
    }

    /// The port that HAProxy was denied. The statistics name none, but where the agent answers, the check's port is
    /// allowed.
    pub fn denied_port(&self, ui_port: u16) -> Option<u16> {
        let is_denied = self.last_words.contains("ermission denied");
        is_denied.then_some(self.port(ui_port))
    }

    /// The port that the last check failed at, as far as the agent tells: it answers at the check's own.
    pub fn port(&self, ui_port: u16) -> u16 {
        match self.agent.contains("L7") {
            true => ui_port,
            false => state::PORT,
        }
    }
}

/// How the HAProxy of this host sees the nodes, in their order. None if it does not show them to this one.
pub fn views_of(host: IpAddr, site: &Site) -> Option<Vec<View>> {
    views(&statistics(host, site.stats_port)?, site.nodes.len())
}

/// Whether this host shows an HAProxy of ours. It does so in a denied answer, too.
pub fn is_ours(host: IpAddr, site: &Site) -> bool {
    mark(host, site.stats_port).is_some()
}

/// What our header says there.
fn mark(host: IpAddr, port: u16) -> Option<String> {
    let answer = http::head(SocketAddr::new(host, port), "/", Duration::from_secs(1)).ok()?;
    answer.header(HEADER).map(str::to_string)
}

/// How the statistics show the nodes.
fn views(rows: &[Row], nodes: usize) -> Option<Vec<View>> {
    (0..nodes).map(|place| view(rows, place)).collect()
}

fn view(rows: &[Row], place: usize) -> Option<View> {
    let column = |proxy: &str, name: &str| {
        let is_it = |row: &&Row| {
            row.get("pxname").is_some_and(|it| it == proxy) && row.get("svname") == Some(&server_name(place))
        };
        rows.iter().find(is_it)?.get(name).cloned()
    };
    Some(View {
        status: column("role", "status")?,
        check: column("role", "check_status")?,
        last_words: column("role", "last_chk").unwrap_or_default(),
        agent: column("role", "agent_status").unwrap_or_default(),
        users: column("ui", "stot").and_then(|text| text.parse().ok()).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Way;
    use crate::site::example;

    #[test]
    fn the_template_gets_every_setting() {
        let template = include_str!("../../deploy/haproxy/haproxy.cfg");
        let text = template::fill(
            template,
            &fields(&example(
                Way::Haproxy,
                Some("10.0.0.130"),
                &["10.0.0.101", "10.0.0.102"],
            )),
        )
        .unwrap();
        for line in [
            "    stats socket /run/cmonhachk-front/admin.sock user haproxy",
            "    http-check connect port 9443\n",
            "    server node2 10.0.0.102:9443 id 2\n",
            "    server node2 10.0.0.102:9443 track role/node2\n",
            "    bind :82\n",
            "    bind :9601\n",
            "src 127.0.0.0/8 ::1 10.0.0.130 10.0.0.101 10.0.0.102 10.7.0.0/16 10.8.0.1 }",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        for left in ["node3", "# @", "443 # ", ":81", "10.0.0.103"] {
            assert!(!text.contains(left), "{left}: {text}");
        }
        assert_eq!(stats_port_in(&text), Some(9601));

        let text = template::fill(
            template,
            &fields(&example(Way::Haproxy, Some("fd00::130"), &["fd00::101", "fd00::102"])),
        )
        .unwrap();
        assert!(
            text.contains("    bind [::]:82 v4v6\n") && text.contains("node1 [fd00::101]:9443 id 1\n"),
            "{text}"
        );
        assert_eq!(stats_port_in(&text), Some(9601));
    }

    #[test]
    fn a_configuration_that_was_changed_is_not_as_signed() {
        let text = format!("a\n    http-after-response set-header {HEADER} {UNSIGNED}\nb\n");
        let text = sign(&text, &signature(&text));
        assert!(is_as_signed(&text));
        assert!(!is_as_signed(&text.replace("b\n", "c\n")));
        assert!(!is_as_signed("nothing"));
    }

    const CSV: &str = "# pxname,svname,status,check_status,last_chk,agent_status,stot\n\
        role,node1,DOWN,L7STS,\"a, \"\"b\"\"\u{1b}[2J\",L7OK,0\n\
        role,node2,UP,* L4OK,,L7OK,0\n\
        role,BACKEND,UP,,,,0\n\
        ui,node1,DOWN,,,,3\n\
        ui,node2,UP,,,,17\n";

    #[test]
    fn statistics_are_read_by_their_columns() {
        let views = views(&rows(CSV), 2).unwrap();
        assert_eq!((views[0].last_words.as_str(), views[0].users), ("a, b?[2J", 3));
        assert!(views[1].has_passed() && !views[0].has_passed());
        assert_eq!(views[1].users, 17);
        assert_eq!(super::views(&rows(CSV), 3), None);
        // An agent's text does not forge a row.
        let forged = CSV.replace("L7OK", "\",UP,L4OK,\"");
        assert!(!super::views(&rows(&forged), 2).unwrap()[0].has_passed());
    }

    #[test]
    fn a_denied_port_is_read_from_haproxys_words() {
        let line = "[ALERT] (7) : Starting frontend users: cannot bind socket (Permission denied) [0.0.0.0:82]";
        assert_eq!(denied_port(line), Some(82));
        assert_eq!(
            denied_port("cannot bind socket (Permission denied) for [:::9601]"),
            Some(9601)
        );
        assert_eq!(denied_port("cannot bind socket (Address in use) [0.0.0.0:82]"), None);
    }
}
