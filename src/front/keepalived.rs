//! keepalived: our part of its configuration, and its service.

use std::fs;
use std::net::IpAddr;

use crate::failure::{Outcome, fail};
use crate::host::{self, Run};
use crate::options::{Way, memory};
use crate::site::Site;
use crate::template::{self, Field, field, list};

/// Our part of the configuration.
pub const SNIPPET: &str = "/etc/keepalived/cmonhachk.conf";
/// keepalived's own file, which includes our part.
pub const CONFIGURATION: &str = "/etc/keepalived/keepalived.conf";
/// Its service.
pub const SERVICE: &str = "keepalived.service";

/// The first line of keepalived.conf.
const INCLUDE: &str = "include /etc/keepalived/cmonhachk.conf # cmonhachk-front";
/// The second line, where there was no keepalived.conf.
const MADE: &str = "# cmonhachk-front made this file and removes it.\n";

/// The highest priority of a node that does not lead, and how far the nodes' are apart. The distance makes sure that
/// two nodes do not take over at the same moment.
const PRIORITY: usize = 103;
const DISTANCE: usize = 20;

/// Our part for this site.
pub fn snippet(site: &Site) -> Outcome<String> {
    let (Some(vip), Some(own), Some(interface)) = (site.vip, site.own, site.interface.as_deref()) else {
        return fail("this host has the address of no NODE");
    };
    let path = match site.way {
        Way::Keepalived => "/usr/share/cmonhachk/leader.conf",
        Way::Haproxy | Way::HaproxyOnly => "/usr/share/cmonhachk/keepalived.conf",
    };
    let mut fields = fields(site, vip, own, interface);
    if site.way == Way::Keepalived {
        fields.push(field("leads", "10.0.0.101 443", format!("{own} {}", site.ui_port)));
    }
    let text = template::fill_file(path, &fields)?;
    Ok(match site.way {
        Way::Keepalived => memory(&site.arguments) + &text,
        Way::Haproxy | Way::HaproxyOnly => text,
    })
}

fn fields(site: &Site, vip: IpAddr, own: IpAddr, interface: &str) -> Vec<Field> {
    let place = site.nodes.iter().position(|node| *node == own).unwrap_or(0);
    let peers = site.nodes.iter().filter(|node| **node != own);
    vec![
        field("interface", "eth1", interface),
        field("router-id", "51", site.router_id),
        field("priority", "103", PRIORITY.saturating_sub(DISTANCE * place).max(1)),
        field("own", "10.0.0.101", own),
        list("peer", "10.0.0.102", peers.map(IpAddr::to_string).collect()),
        field("vip", "10.0.0.130", vip),
    ]
}

/// keepalived.conf without our line, byte for byte; None if there is no such file.
pub fn others() -> Option<Vec<u8>> {
    let text = fs::read(CONFIGURATION).ok()?;
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let others = lines.filter(|line| line.strip_suffix(b"\n").unwrap_or(line) != INCLUDE.as_bytes());
    Some(others.collect::<Vec<_>>().concat())
}

/// keepalived.conf with our line.
pub fn with_include(others: Option<&[u8]>) -> Vec<u8> {
    [INCLUDE.as_bytes(), b"\n", others.unwrap_or(MADE.as_bytes())].concat()
}

/// Whether keepalived.conf has our line.
pub fn is_included() -> bool {
    host::text_of(CONFIGURATION).is_some_and(|text| text.lines().any(|line| line == INCLUDE))
}

/// Whether we made keepalived.conf.
pub fn is_made(others: &[u8]) -> bool {
    others == MADE.as_bytes()
}

/// Whether others use the address in keepalived.conf.
pub fn has_others_with(others: &str, address: IpAddr) -> bool {
    let text = address.to_string();
    let is_part = |letter: char| letter.is_ascii_hexdigit() || letter == '.' || letter == ':';
    let code = others
        .lines()
        .map(|line| line.split(['#', '!']).next().unwrap_or_default());
    code.flat_map(|line| line.split(|letter| !is_part(letter)))
        .any(|word| word == text)
}

/// # Errors
/// keepalived refuses its configuration with our part. What it says without our part, too, does not count.
pub fn check(stage: &str, snippet: &str, others: Option<&[u8]>) -> Outcome<()> {
    let (staged, whole) = (format!("{stage}/snippet"), format!("{stage}/keepalived.conf"));
    let text = format!(
        "include {staged}\n{}",
        absolute(&String::from_utf8_lossy(others.unwrap_or_default()))
    );
    let test = |snippet: &str| {
        host::write(&staged, snippet)?;
        host::write(&whole, &text)?;
        let said = host::run("keepalived", &["--config-test", "--use-file", &whole]);
        Ok((said.succeeded, said.output + &said.errors))
    };
    let (accepted_before, before) = test("")?;
    // Version 2.2.7 ends its test with SIGTERM, and without a word, if a script has another user than root.
    let (accepts, said) = test(&snippet.replace("user cmonhachk", "user root"))?;
    let new = host::new_lines(&said, &before);
    if accepts || (!accepted_before && new.is_empty()) {
        return Ok(());
    }
    let advice = match &new {
        new if new.contains("VRID") => " (see --router-id)",
        // Script security is for all scripts.
        new if new.contains("default user") => " (say whose your scripts are: script_user in global_defs)",
        _ => "",
    };
    fail(format!(
        "keepalived refuses the configuration that it would get{advice}: {new}"
    ))
}

/// Relative paths start from the file's folder.
fn absolute(text: &str) -> String {
    let line = |line: &str| {
        let code = line.trim_start();
        let Some((word, path)) = code.split_once([' ', '\t']) else {
            return line.to_string();
        };
        match word.starts_with("include") && !path.trim_start().starts_with('/') {
            true => format!("{word} /etc/keepalived/{}", path.trim_start()),
            false => line.to_string(),
        }
    };
    text.lines().map(|text| line(text) + "\n").collect()
}

/// Starts or reloads keepalived, unless it has read our part as it is. `must_read` says that it has not.
pub fn start(must_read: bool, run: &mut Run) -> Outcome<()> {
    host::enable(run, SERVICE)?;
    let is_active = host::is_active(SERVICE);
    if is_active && !must_read && host::has_read(SERVICE, SNIPPET) {
        return Ok(());
    }
    let Some(verb) = run.start_or_reload(SERVICE, is_active) else {
        return Ok(());
    };
    host::control(SERVICE, &[verb])?;
    host::note_read(SERVICE);
    Ok(())
}

/// The addresses in a block of our part, one a line.
pub fn addresses_in(snippet: &str, block: &str) -> Vec<IpAddr> {
    let mut lines = snippet
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != format!("{block} {{"));
    lines.next();
    lines
        .take_while(|line| *line != "}")
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::example;

    fn text(way: Way, template: &str) -> String {
        let site = example(way, Some("10.7.0.130"), &["10.7.0.101", "10.7.0.102", "10.7.0.103"]);
        let mut fields = fields(&site, site.vip.unwrap(), site.own.unwrap(), "eno7");
        if way == Way::Keepalived {
            fields.push(field("leads", "10.0.0.101 443", "10.7.0.102 9443"));
        }
        template::fill(template, &fields).unwrap()
    }

    #[test]
    fn the_template_gets_every_setting() {
        let text = text(Way::Haproxy, include_str!("../../deploy/keepalived/keepalived.conf"));
        let code: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .map(|line| format!("{line}\n"))
            .collect();
        for line in [
            "    interface eno7\n",
            "    virtual_router_id 77\n",
            "    priority 83\n",
            "    unicast_src_ip 10.7.0.102\n",
        ] {
            assert!(code.contains(line), "{line}: {code}");
        }
        for left in ["10.0.0.", "eth1", "# @"] {
            assert!(!code.contains(left), "{left}: {code}");
        }
        let of = |block| {
            addresses_in(&text, block)
                .iter()
                .map(IpAddr::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("unicast_peer"), ["10.7.0.101", "10.7.0.103"]);
        assert_eq!(of("virtual_ipaddress"), ["10.7.0.130"]);
        assert_eq!(of("no_such_block"), [""; 0]);
    }

    #[test]
    fn the_template_without_haproxy_gets_every_setting() {
        let text = text(Way::Keepalived, include_str!("../../deploy/keepalived/leader.conf"));
        assert!(
            text.contains("cmonhachk-leads 10.7.0.102 9443\"\n") && text.contains("    priority 83\n"),
            "{text}"
        );
        for left in ["10.0.0.", "eth1", " # @"] {
            assert!(!text.contains(left), "{left}: {text}");
        }
    }

    #[test]
    fn only_the_whole_address_in_code_is_anothers() {
        let has = |text| has_others_with(text, "10.0.0.13".parse().unwrap());
        assert!(has("virtual_ipaddress {\n10.0.0.13/24\n}"));
        for text in ["10.0.0.130", "# 10.0.0.13", "! 10.0.0.13", "110.0.0.13", ""] {
            assert!(!has(text), "{text}");
        }
    }

    #[test]
    fn relative_includes_are_those_of_keepaliveds_folder() {
        assert_eq!(absolute("\tinclude own.conf\n"), "include /etc/keepalived/own.conf\n");
        assert_eq!(absolute("include /a\nvrrp x {\n"), "include /a\nvrrp x {\n");
    }
}
