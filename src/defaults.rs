//! Who this node is: `RPC_BIND_ADDRESSES` in the controller's defaults file.
//!
//! The file is shell-style, `/etc/default/cmon` as the ClusterControl packages install it. It is
//! read, never evaluated.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::anyhow;
use regex::bytes::Regex;

use crate::reason::{Fault, Reason};
use crate::settings::unquote;

/// A line that assigns: perhaps behind a byte order mark or `export`, never behind a `#`.
const ASSIGNMENT: &str = r"(?s-u)^(?:\xEF\xBB\xBF)?[ \t]*(?:export[ \t]+)?RPC_BIND_ADDRESSES=(.*)$";

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

/// Reads the entries of `RPC_BIND_ADDRESSES` from the defaults file's text, in order, loopback
/// among them. The last assignment counts; its value is a list separated by commas or blanks.
///
/// # Errors
/// [`Reason::NoBindAddresses`] where nothing is assigned, [`Reason::OnlyLoopback`] where no entry
/// could tell one node from another.
pub fn bind_addresses(text: &[u8]) -> Result<Vec<Entry>, Fault> {
    let value = last_assignment(text)
        .ok_or_else(|| Reason::NoBindAddresses.because(anyhow!("no line assigns RPC_BIND_ADDRESSES")))?;
    let entries: Vec<Entry> = unquote(value)
        .split(|byte| *byte == b',' || byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .map(Entry::parse)
        .collect();
    if entries.is_empty() {
        return Err(Reason::NoBindAddresses.because(anyhow!("RPC_BIND_ADDRESSES is assigned an empty list")));
    }
    if entries.iter().all(|entry| matches!(entry, Entry::Loopback(_))) {
        return Err(Reason::OnlyLoopback.because(anyhow!("RPC_BIND_ADDRESSES is {}", join(&entries))));
    }
    Ok(entries)
}

/// The entries as an operator would write them.
pub fn join(entries: &[Entry]) -> String {
    entries.iter().map(Entry::to_string).collect::<Vec<_>>().join(", ")
}

/// What stands behind the `=` of the last assignment, to the end of its line.
fn last_assignment(text: &[u8]) -> Option<&[u8]> {
    let assignment = Regex::new(ASSIGNMENT).expect("the pattern is constant and tested");
    // The expression is asked only about the few lines that it may match.
    let is_candidate = |line: &&[u8]| {
        let equals = line.iter().position(|byte| *byte == b'=');
        equals.is_some_and(|equals| line[..equals].ends_with(b"RPC_BIND_ADDRESSES"))
    };
    let mut candidates = text.split(|byte| *byte == b'\n').rev().filter(is_candidate);
    candidates.find_map(|line| Some(assignment.captures(line)?.get(1)?.as_bytes()))
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
            "echo RPC_BIND_ADDRESSES=10.0.0.1",
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
    fn nothing_is_evaluated() {
        assert_eq!(read(b"RPC_BIND_ADDRESSES=$(hostname)"), "$(hostname)");
        assert_eq!(read(b"RPC_BIND_ADDRESSES=\"${IP}\",`id`"), "${IP}, `id`");
    }
}
