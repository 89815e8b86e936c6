//! Who this node is: `RPC_BIND_ADDRESSES` in the controller's defaults file.
//!
//! The file is shell-style, `/etc/default/cmon` as the ClusterControl packages install it. It is
//! read, never evaluated.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::anyhow;
use regex::bytes::Regex;

use crate::reason::{Fault, Reason};
use crate::settings::{Open, value};

/// The option that starts cmon in a Controller Pool.
const POOL: &[u8] = b"--pool";

/// One entry of `RPC_BIND_ADDRESSES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An address of this node. An IPv4-mapped IPv6 address is kept as the IPv4 address.
    Address(IpAddr),
    /// `0.0.0.0` or `::`: every address of this machine's interfaces.
    Wildcard,
    /// A loopback address: the same on every node, so it names none.
    Loopback(IpAddr),
    /// Anything else: a host name, in whatever bytes the file has.
    Name(Vec<u8>),
}

impl Entry {
    fn parse(word: &[u8]) -> Entry {
        let address = std::str::from_utf8(word)
            .ok()
            .and_then(|text| text.parse::<IpAddr>().ok());
        match address.map(|address| address.to_canonical()) {
            Some(address) if address.is_unspecified() => Entry::Wildcard,
            Some(address) if address.is_loopback() => Entry::Loopback(address),
            Some(address) => Entry::Address(address),
            None if is_loopback_name(word) => Entry::Loopback(Ipv4Addr::LOCALHOST.into()),
            None => Entry::Name(word.to_vec()),
        }
    }
}

/// The names that Debian and Red Hat give to loopback in /etc/hosts.
fn is_loopback_name(word: &[u8]) -> bool {
    let names: [&[u8]; 8] = [
        b"localhost",
        b"localhost.localdomain",
        b"localhost4",
        b"localhost4.localdomain4",
        b"localhost6",
        b"localhost6.localdomain6",
        b"ip6-localhost",
        b"ip6-loopback",
    ];
    names.iter().any(|name| name.eq_ignore_ascii_case(word))
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Address(address) | Entry::Loopback(address) => address.fmt(f),
            Entry::Wildcard => f.write_str("the wildcard address"),
            Entry::Name(name) => String::from_utf8_lossy(name).fmt(f),
        }
    }
}

/// Reads the entries of `RPC_BIND_ADDRESSES` from the defaults file's text, in order, with loopback.
/// The last assignment counts; its value is a list separated by commas or blanks.
///
/// # Errors
/// [`Reason::NoBindAddresses`] where nothing is assigned, [`Reason::DefaultsUnclear`] where a shell
/// may see another value, [`Reason::OnlyLoopback`] where no entry could tell one node from another.
pub fn bind_addresses(text: &[u8]) -> Result<Vec<Entry>, Fault> {
    let value = last_assignment(text, "RPC_BIND_ADDRESSES")?
        .ok_or_else(|| Reason::NoBindAddresses.because(anyhow!("no line assigns RPC_BIND_ADDRESSES")))?;
    entries(&value, "RPC_BIND_ADDRESSES")
}

/// Whether the defaults file starts cmon in a Controller Pool: `--pool` in `EXTRA_OPTS`.
pub fn is_in_a_pool(text: &[u8]) -> bool {
    let has_pool = |text: &[u8]| {
        let mut words = text.split(|byte| byte.is_ascii_whitespace() || b"\"'=".contains(byte));
        words.any(|word| word == POOL)
    };
    if !text.windows(POOL.len()).any(|part| part == POOL) {
        return false;
    }
    match last_assignment(text, "EXTRA_OPTS") {
        Ok(options) => options.is_some_and(|options| has_pool(&options)),
        // In doubt it counts as a pool, because a pool must not get a leader.
        Err(_) => text
            .split(|byte| *byte == b'\n')
            .any(|line| !line.trim_ascii().starts_with(b"#") && has_pool(line)),
    }
}

/// The entries of a list that `origin` gives.
///
/// # Errors
/// As for [`bind_addresses`].
pub fn entries(value: &[u8], origin: &str) -> Result<Vec<Entry>, Fault> {
    let words = value.split(|byte| *byte == b',' || byte.is_ascii_whitespace());
    let entries: Vec<Entry> = words.filter(|word| !word.is_empty()).map(Entry::parse).collect();
    if entries.is_empty() {
        return Err(Reason::NoBindAddresses.because(anyhow!("{origin} is an empty list")));
    }
    if entries.iter().all(|entry| matches!(entry, Entry::Loopback(_))) {
        return Err(Reason::OnlyLoopback.because(anyhow!("{origin} is {}", join(&entries))));
    }
    Ok(entries)
}

/// The entries as an operator would write them.
pub fn join(entries: &[Entry]) -> String {
    entries.iter().map(Entry::to_string).collect::<Vec<_>>().join(", ")
}

/// The value of the last assignment to `name`. None where there is none.
///
/// # Errors
/// [`Reason::DefaultsUnclear`] where only a shell can tell the value.
fn last_assignment(text: &[u8], name: &str) -> Result<Option<Vec<u8>>, Fault> {
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    let mut open = Open::default();
    let mut last = None;
    let export = format!("export {name}");
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let was_clear = open == Open::default();
        let may_assign = open.read(line, name.as_bytes());
        if may_assign && (!was_clear || line.trim_ascii() != export.as_bytes()) {
            last = Some((number, line, was_clear && open == Open::default()));
        }
    }
    let Some((number, line, is_clear)) = last else {
        return Ok(None);
    };
    let assignment = Regex::new(&format!(r"(?s-u)^[ \t]*(?:export[ \t]+)?{name}=(.*)$"));
    let assignment = assignment.expect("the pattern is constant and tested");
    let rest = assignment.captures(line).and_then(|parts| parts.get(1));
    let value = rest.and_then(|rest| value(rest.as_bytes()));
    // A path after the value is a command, and only that command gets the value.
    let is_plain = |value: &[u8], next: &[u8]| {
        is_clear
            && !value.contains(&b'/')
            && (next == export.as_bytes() || !Open::default().read(next, name.as_bytes()))
    };
    match value {
        Some((value, next)) if is_plain(&value, next) => Ok(Some(value)),
        _ => Err(Reason::DefaultsUnclear.because(anyhow!(
            "line {}, the last that assigns {name}, is no plain assignment: {}",
            number + 1,
            String::from_utf8_lossy(line)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> String {
        match bind_addresses(text) {
            Ok(entries) => join(&entries),
            Err(fault) => fault.reason.code().to_string(),
        }
    }

    #[test]
    fn the_shell_styles_of_an_assignment_are_read() {
        for text in [
            "RPC_BIND_ADDRESSES=127.0.0.1,10.0.0.101",
            "RPC_BIND_ADDRESSES=\"127.0.0.1,10.0.0.101\"",
            "RPC_BIND_ADDRESSES='127.0.0.1,10.0.0.101'\n",
            "RPC_BIND_ADDRESSES=\"127.0.0.1 10.0.0.101\"",
            "RPC_BIND_ADDRESSES=\"127.0.0.1, 10.0.0.101\"",
            "RPC_BIND_ADDRESSES=\"127.0.0.1\t10.0.0.101,\"",
            "RPC_BIND_ADDRESSES=127.0.0.1 10.0.0.101",
            "RPC_BIND_ADDRESSES=127.0.0.1\\ 10.0.0.101",
            "RPC_BIND_ADDRESSES=\"127.0.0.1\",'10.0.0.101'",
            "  export  RPC_BIND_ADDRESSES='127.0.0.1,10.0.0.101'",
            "\texport\tRPC_BIND_ADDRESSES=127.0.0.1,10.0.0.101; export OTHER=10.9.9.9",
            "RPC_BIND_ADDRESSES=127.0.0.1,10.0.0.101 # 10.9.9.9",
            "RPC_BIND_ADDRESSES=\"127.0.0.1,10.0.0.101\"\t# 10.9.9.9",
            "\u{feff}RPC_BIND_ADDRESSES=127.0.0.1,10.0.0.101\r\n",
            "# comment\r\nRPC_BIND_ADDRESSES=\"127.0.0.1,10.0.0.101\"\r\nOTHER=10.9.9.9\r\n",
        ] {
            assert_eq!(read(text.as_bytes()), "127.0.0.1, 10.0.0.101", "{text:?}");
        }
    }

    #[test]
    fn a_number_sign_inside_a_word_is_the_words() {
        assert_eq!(read(b"RPC_BIND_ADDRESSES=a#b,#c"), "a#b, #c");
    }

    #[test]
    fn the_last_assignment_counts() {
        assert_eq!(
            read(b"RPC_BIND_ADDRESSES=10.0.0.1\nRPC_BIND_ADDRESSES=10.0.0.2\n#RPC_BIND_ADDRESSES=10.0.0.3\n"),
            "10.0.0.2"
        );
        assert_eq!(
            read(b"RPC_BIND_ADDRESSES=10.0.0.1\nRPC_BIND_ADDRESSES=\n"),
            "no-bind-addresses"
        );
        assert_eq!(read(b"RPC_BIND_ADDRESSES=\nRPC_BIND_ADDRESSES=10.0.0.2"), "10.0.0.2");
    }

    #[test]
    fn other_lines_are_other_things() {
        for text in [
            "",
            "#RPC_BIND_ADDRESSES=10.0.0.1",
            "  # RPC_BIND_ADDRESSES=10.0.0.1",
            "OLD_RPC_BIND_ADDRESSES=10.0.0.1",
            "RPC_BIND_ADDRESSES_OLD=10.0.0.1",
            "exportRPC_BIND_ADDRESSES=10.0.0.1",
            "rpc_bind_addresses=10.0.0.1",
            "RPC_BIND_ADDRESSES = 10.0.0.1",
            "NOTE=\"RPC_BIND_ADDRESSES=10.0.0.1\"",
            "RPC_BIND_ADDRESSES=\"\"",
            "RPC_BIND_ADDRESSES=#10.0.0.1",
            "RPC_BIND_ADDRESSES= , ",
        ] {
            assert_eq!(read(text.as_bytes()), "no-bind-addresses", "{text:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_let_be() {
        assert_eq!(
            read(b"NAME=\"\xff\xfe\"\n\x80\nRPC_BIND_ADDRESSES=10.0.0.1 # \xe9t\xe9\n\xff"),
            "10.0.0.1"
        );
        assert_eq!(
            bind_addresses(b"RPC_BIND_ADDRESSES=cc\xe9").unwrap(),
            [Entry::Name(b"cc\xe9".to_vec())]
        );
    }

    #[test]
    fn each_entry_is_what_it_says() {
        let entries =
            bind_addresses(b"RPC_BIND_ADDRESSES=127.9.9.9,::1,::ffff:127.0.0.1,0.0.0.0,::,fd00:0::a,::ffff:10.0.0.1,CC1.example.com,10.0.0.256,010.0.0.1")
                .unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            entries,
            [
                Entry::Loopback(address("127.9.9.9")),
                Entry::Loopback(address("::1")),
                Entry::Loopback(address("127.0.0.1")),
                Entry::Wildcard,
                Entry::Wildcard,
                Entry::Address(address("fd00::a")),
                Entry::Address(address("10.0.0.1")),
                Entry::Name(b"CC1.example.com".to_vec()),
                Entry::Name(b"10.0.0.256".to_vec()),
                Entry::Name(b"010.0.0.1".to_vec()),
            ]
        );
    }

    #[test]
    fn loopback_alone_names_no_node() {
        for text in [
            "RPC_BIND_ADDRESSES=127.0.0.1",
            "RPC_BIND_ADDRESSES=\"127.0.0.1,::1\"",
            "RPC_BIND_ADDRESSES=127.255.0.3",
            "RPC_BIND_ADDRESSES=localhost,LocalHost.localdomain,ip6-localhost",
        ] {
            assert_eq!(read(text.as_bytes()), "only-loopback", "{text:?}");
        }
    }

    #[test]
    fn an_assignment_that_only_a_shell_can_evaluate_is_not_guessed_at() {
        for unclear in [
            "RPC_BIND_ADDRESSES=$(hostname)",
            "RPC_BIND_ADDRESSES=\"10.0.0.2,${IP}\"",
            "RPC_BIND_ADDRESSES=`id`",
            "RPC_BIND_ADDRESSES=10.0.0.2,\\",
            "RPC_BIND_ADDRESSES=10.0.0.2,\\\r\n10.0.0.3",
            "RPC_BIND_ADDRESSES=\"10.0.0.2,",
            "RPC_BIND_ADDRESSES='10.0.0.2,\n10.0.0.3'",
            "RPC_BIND_ADDRESSES+=,10.0.0.2",
            "RPC_BIND_ADDRESSES=10.0.0.2; RPC_BIND_ADDRESSES=10.0.0.3",
            "if [ -e /x ]\nthen RPC_BIND_ADDRESSES=10.0.0.2\nfi",
            "if [ -e /x ]; then\n  RPC_BIND_ADDRESSES=10.0.0.2\nfi",
            "[ -e /x ] && RPC_BIND_ADDRESSES=10.0.0.2",
            "case $(hostname) in\ncc2)\nRPC_BIND_ADDRESSES=10.0.0.2\n;;\nesac",
            "f() {\nRPC_BIND_ADDRESSES=10.0.0.2\n}",
            "function f {\nRPC_BIND_ADDRESSES=10.0.0.2\n}",
            "cat <<EOF\nRPC_BIND_ADDRESSES=10.0.0.2\nEOF",
            "NOTE=\"\nRPC_BIND_ADDRESSES=10.0.0.2\n\"",
            "NOTE=x\\\nRPC_BIND_ADDRESSES=10.0.0.2",
            "NOTE=x RPC_BIND_ADDRESSES=10.0.0.2",
            "declare -x RPC_BIND_ADDRESSES=10.0.0.2",
            "echo RPC_BIND_ADDRESSES=10.0.0.2",
            "false &&\nRPC_BIND_ADDRESSES=10.0.0.2",
            "true ||\nRPC_BIND_ADDRESSES=10.0.0.2",
            "(\nRPC_BIND_ADDRESSES=10.0.0.2\n)",
            "X=$(\nRPC_BIND_ADDRESSES=10.0.0.2\necho a\n)",
            "A=b#'\nRPC_BIND_ADDRESSES=10.0.0.2\n'",
            "command <<<y '\nRPC_BIND_ADDRESSES=10.0.0.2\n'",
            "cat <<EOF\n  EOF\nRPC_BIND_ADDRESSES=10.0.0.2\nEOF",
            "RPC_BIND_ADDRESSES=10.0.0.2 /bin/true",
            "RPC_BIND_ADDRESSES=10.0.0.2 &",
            "RPC_BIND_ADDRESSES=10.0.0.2 | cat",
            "export \"RPC_BIND_ADDRESSES=10.0.0.2\"",
            "unset RPC_BIND_ADDRESSES",
            "read RPC_BIND_ADDRESSES <<E\n10.0.0.2\nE",
            ". /etc/default/other",
        ] {
            let after_another = format!("RPC_BIND_ADDRESSES=10.0.0.1\n{unclear}\n");
            assert_eq!(read(after_another.as_bytes()), "defaults-unclear", "{unclear:?}");
            let before_another = format!("{unclear}\nRPC_BIND_ADDRESSES=10.0.0.1\n");
            if !unclear.ends_with(['\\', ',']) {
                assert_eq!(read(before_another.as_bytes()), "10.0.0.1", "{unclear:?}");
            }
        }
        for exit in ["exit 0\n", "if true\nthen exit\nfi\n"] {
            let text = format!("{exit}RPC_BIND_ADDRESSES=10.0.0.1");
            assert_eq!(read(text.as_bytes()), "defaults-unclear", "{exit}");
        }
        for clear in [
            "RPC_BIND_ADDRESSES=10.0.0.1; export RPC_BIND_ADDRESSES",
            "RPC_BIND_ADDRESSES=10.0.0.1\nexport RPC_BIND_ADDRESSES\n",
            "RPC_BIND_ADDRESSES=10.0.0.1\nADDRESS=\"${RPC_BIND_ADDRESSES}\"\necho $RPC_BIND_ADDRESSES",
            "X=$((1<<2))\nRPC_BIND_ADDRESSES=10.0.0.1",
            "RPC_BIND_ADDRESSES=10.0.0.1\nread RPC_BIND_ADDRESSES_2 <<<x",
            ". /etc/default/other\nRPC_BIND_ADDRESSES=10.0.0.1",
        ] {
            assert_eq!(read(clear.as_bytes()), "10.0.0.1", "{clear}");
        }
        assert_eq!(
            read(b"if true; then A=1; fi\nRPC_BIND_ADDRESSES=10.0.0.1 # not ${IP}, it's\nB='\n'"),
            "10.0.0.1"
        );
    }

    #[test]
    fn a_pool_is_known_by_the_last_options() {
        assert!(is_in_a_pool(b"EXTRA_OPTS=\"--cloud-service=x --pool\"\n"));
        for text in [
            "export EXTRA_OPTS=--pool # ours",
            "EXTRA_OPTS=\"$EXTRA_OPTS --pool\"",
            "EXTRA_OPTS+=\" --pool\"",
            "EXTRA_OPTS=\"--x \\\n --pool\"",
            "if true\nthen EXTRA_OPTS='--pool'\nfi",
            "EXTRA_OPTS=--pool\nEXTRA_OPTS=\"$EXTRA_OPTS --x\"",
        ] {
            assert!(is_in_a_pool(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "#EXTRA_OPTS=--pool",
            "EXTRA_OPTS=--pool\nEXTRA_OPTS=",
            "EXTRA_OPTS=\"--pool-size=3 --no-pool\"",
            "OTHER=--pool",
            "EXTRA_OPTS=$(other)\n # not --pool",
        ] {
            assert!(!is_in_a_pool(text.as_bytes()), "{text:?}");
        }
    }
}
