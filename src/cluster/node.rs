//! Who this node is: `RPC_BIND_ADDRESSES` in the controller's defaults file.
//!
//! The file is shell-style, `/etc/default/cmon` as the ClusterControl packages install it. It is
//! read, never evaluated.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::anyhow;

use crate::os::env_file::{Line, lines};
use crate::verdict::reason::{Fault, Reason};

/// One entry of `RPC_BIND_ADDRESSES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindAddress {
    /// An address. An IPv4-mapped IPv6 address is kept as the IPv4 address.
    Address(IpAddr),
    /// `0.0.0.0` or `::`: every address of this machine's interfaces.
    Wildcard,
    /// A loopback address. It is the same on every node, so it does not name one.
    Loopback(IpAddr),
    /// Anything else: a host name, in whatever bytes the file has.
    Name(Vec<u8>),
}

impl BindAddress {
    fn parse(word: &[u8]) -> BindAddress {
        let address = std::str::from_utf8(word)
            .ok()
            .and_then(|text| text.parse::<IpAddr>().ok());
        match address.map(|address| address.to_canonical()) {
            Some(address) if address.is_unspecified() => BindAddress::Wildcard,
            Some(address) if address.is_loopback() => BindAddress::Loopback(address),
            Some(address) => BindAddress::Address(address),
            None if word.eq_ignore_ascii_case(b"localhost") => BindAddress::Loopback(Ipv4Addr::LOCALHOST.into()),
            None => BindAddress::Name(word.to_vec()),
        }
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindAddress::Address(address) | BindAddress::Loopback(address) => address.fmt(f),
            BindAddress::Wildcard => f.write_str("the wildcard address"),
            BindAddress::Name(name) => String::from_utf8_lossy(name).fmt(f),
        }
    }
}

/// Reads the entries of `RPC_BIND_ADDRESSES` from the defaults file's text, in order, with loopback.
/// The last assignment counts; its value is a list separated by commas or blanks.
///
/// # Errors
/// [`Reason::DefaultsUnclear`] where only a shell can tell the value, [`Reason::NoBindAddresses`] where
/// nothing is assigned, [`Reason::OnlyLoopback`] where no entry could tell one node from another.
pub fn bind_addresses(text: &[u8]) -> Result<Vec<BindAddress>, Fault> {
    const NAME: &str = "RPC_BIND_ADDRESSES";
    let unclear = |number, why| {
        let line = text.split(|byte| *byte == b'\n').nth(number).unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        Reason::DefaultsUnclear.because(anyhow!("line {} {why}: {line}", number + 1))
    };
    let mut last = None;
    for (number, line) in lines(text).enumerate() {
        match line {
            Line::Assignment(name, value) if name == NAME.as_bytes() => last = Some((number, value)),
            Line::Nothing | Line::Assignment(..) => {}
            Line::Other => return Err(unclear(number, "is no comment and no plain assignment")),
        }
    }
    match last {
        Some((_, Some(value))) => list(&value, NAME),
        Some((number, None)) => Err(unclear(number, "assigns a variable's value")),
        None => Err(Reason::NoBindAddresses.because(anyhow!("no line assigns {NAME}"))),
    }
}

/// Whether the defaults file starts cmon in a Controller Pool: `--pool` in `EXTRA_OPTS`. In doubt it does,
/// because a pool must not get a leader.
pub fn is_in_a_pool(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| {
        let mut words = line.split(|byte| byte.is_ascii_whitespace() || b"\"'=+;".contains(byte));
        !line.trim_ascii().starts_with(b"#")
            && words.any(|word| word == b"EXTRA_OPTS")
            && words.any(|word| word == b"--pool")
    })
}

/// The entries of a list that `origin` gives.
///
/// # Errors
/// [`Reason::NoBindAddresses`] and [`Reason::OnlyLoopback`], as for [`bind_addresses`].
pub fn list(value: &[u8], origin: &str) -> Result<Vec<BindAddress>, Fault> {
    let words = value.split(|byte| *byte == b',' || byte.is_ascii_whitespace());
    let entries: Vec<_> = words.filter(|word| !word.is_empty()).map(BindAddress::parse).collect();
    if entries.is_empty() {
        return Err(Reason::NoBindAddresses.because(anyhow!("{origin} is an empty list")));
    }
    if entries.iter().all(|entry| matches!(entry, BindAddress::Loopback(_))) {
        return Err(Reason::OnlyLoopback.because(anyhow!("{origin} is {}", join(&entries))));
    }
    Ok(entries)
}

/// Those of the entries that can be this machine's, whose interfaces have these addresses.
///
/// # Errors
/// [`Reason::AnotherNode`] where none is left.
pub fn of_this_machine(entries: &[BindAddress], interfaces: &[IpAddr]) -> Result<Vec<BindAddress>, Fault> {
    let is_here = |entry: &&BindAddress| match entry {
        BindAddress::Address(address) => interfaces.contains(address),
        BindAddress::Loopback(_) => false,
        BindAddress::Wildcard | BindAddress::Name(_) => true,
    };
    let here: Vec<_> = entries.iter().filter(is_here).cloned().collect();
    if here.is_empty() {
        let names = join(entries);
        return Err(Reason::AnotherNode.because(anyhow!("no interface of this machine has an address of {names}")));
    }
    Ok(here)
}

/// The entries as an operator would write them.
pub fn join(entries: &[BindAddress]) -> String {
    entries
        .iter()
        .map(BindAddress::to_string)
        .collect::<Vec<_>>()
        .join(", ")
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
            "RPC_BIND_ADDRESSES='127.0.0.1,10.0.0.101'\n",
            "RPC_BIND_ADDRESSES=\"127.0.0.1 10.0.0.101\"",
            "RPC_BIND_ADDRESSES=\"127.0.0.1, 10.0.0.101\"",
            "RPC_BIND_ADDRESSES=\"127.0.0.1\t10.0.0.101,\"",
            "RPC_BIND_ADDRESSES=\"127.0.0.1\",'10.0.0.101'",
            "  export  RPC_BIND_ADDRESSES='127.0.0.1,10.0.0.101'",
            "RPC_BIND_ADDRESSES=127.0.0.1,10.0.0.101 # 10.9.9.9",
            "# comment\r\nRPC_BIND_ADDRESSES=\"127.0.0.1,10.0.0.101\"\r\nOTHER=10.9.9.9\r\n",
            "OTHER=\"$RPC_BIND_ADDRESSES\"\nRPC_BIND_ADDRESSES=127.0.0.1,10.0.0.101\nexport RPC_BIND_ADDRESSES\n",
        ] {
            assert_eq!(read(text.as_bytes()), "127.0.0.1, 10.0.0.101", "{text:?}");
        }
    }

    #[test]
    fn the_last_assignment_counts() {
        assert_eq!(
            read(b"RPC_BIND_ADDRESSES=\"$IP\"\nRPC_BIND_ADDRESSES=10.0.0.2\n#RPC_BIND_ADDRESSES=10.0.0.3\n"),
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
            "rpc_bind_addresses=10.0.0.1",
            "NOTE=\"RPC_BIND_ADDRESSES=10.0.0.1\"",
            "RPC_BIND_ADDRESSES=\"\"",
            "RPC_BIND_ADDRESSES=\" , \"",
        ] {
            assert_eq!(read(text.as_bytes()), "no-bind-addresses", "{text:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_let_be() {
        assert_eq!(
            read(b"NAME=\"\xff\xfe\"\n# \x80\nRPC_BIND_ADDRESSES=10.0.0.1 # \xe9t\xe9\n"),
            "10.0.0.1"
        );
        assert_eq!(
            bind_addresses(b"RPC_BIND_ADDRESSES='cc\xe9'").unwrap(),
            [BindAddress::Name(b"cc\xe9".to_vec())]
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
                BindAddress::Loopback(address("127.9.9.9")),
                BindAddress::Loopback(address("::1")),
                BindAddress::Loopback(address("127.0.0.1")),
                BindAddress::Wildcard,
                BindAddress::Wildcard,
                BindAddress::Address(address("fd00::a")),
                BindAddress::Address(address("10.0.0.1")),
                BindAddress::Name(b"CC1.example.com".to_vec()),
                BindAddress::Name(b"10.0.0.256".to_vec()),
                BindAddress::Name(b"010.0.0.1".to_vec()),
            ]
        );
    }

    #[test]
    fn loopback_alone_names_no_node() {
        for text in [
            "RPC_BIND_ADDRESSES=127.0.0.1",
            "RPC_BIND_ADDRESSES=\"127.0.0.1,::1\"",
            "RPC_BIND_ADDRESSES=127.255.0.3",
            "RPC_BIND_ADDRESSES=localhost,LocalHost",
        ] {
            assert_eq!(read(text.as_bytes()), "only-loopback", "{text:?}");
        }
    }

    #[test]
    fn a_file_that_only_a_shell_can_evaluate_is_not_guessed_at() {
        for unclear in [
            "RPC_BIND_ADDRESSES=$(hostname)",
            "RPC_BIND_ADDRESSES=10.0.0.2,\\\n10.0.0.3",
            "RPC_BIND_ADDRESSES='10.0.0.2,\n10.0.0.3'",
            "RPC_BIND_ADDRESSES+=,10.0.0.2",
            "RPC_BIND_ADDRESSES=10.0.0.2 10.0.0.3",
            "RPC_BIND_ADDRESSES = 10.0.0.2",
            "RPC_BIND_ADDRESSES=10.0.0.2; RPC_BIND_ADDRESSES=10.0.0.3",
            "if [ -e /x ]\nthen RPC_BIND_ADDRESSES=10.0.0.2\nfi",
            "cat <<EOF\nRPC_BIND_ADDRESSES=10.0.0.2\nEOF",
            "NOTE=x RPC_BIND_ADDRESSES=10.0.0.2",
            "[ \"$(hostname)\" = cc2 ] &&\n# only on cc2\nRPC_BIND_ADDRESSES=10.0.0.2",
            "unset RPC_BIND_ADDRESSES",
            ". /etc/default/other",
            "exit",
        ] {
            for text in [
                format!("RPC_BIND_ADDRESSES=10.0.0.1\n{unclear}\n"),
                format!("{unclear}\nRPC_BIND_ADDRESSES=10.0.0.1\n"),
            ] {
                assert_eq!(read(text.as_bytes()), "defaults-unclear", "{text:?}");
            }
        }
        let variable = b"RPC_BIND_ADDRESSES=10.0.0.1\nRPC_BIND_ADDRESSES=\"10.0.0.1,$IP\"";
        assert_eq!(read(variable), "defaults-unclear");
        let fault = bind_addresses(b"# x\nA=1\nfi\n").unwrap_err();
        assert_eq!(
            format!("{:#}", fault.detail),
            "line 3 is no comment and no plain assignment: fi"
        );
    }

    #[test]
    fn an_address_of_no_interface_is_another_machines() {
        let here = |text: &str| {
            let entries = list(text.as_bytes(), "a test").unwrap();
            let interfaces = ["10.0.0.2", "fd00::2"].map(|address| address.parse().unwrap());
            match of_this_machine(&entries, &interfaces) {
                Ok(entries) => join(&entries),
                Err(fault) => fault.reason.code().to_string(),
            }
        };
        for (text, left) in [
            ("127.0.0.1,10.0.0.1,10.0.0.2", "10.0.0.2"),
            ("10.0.0.1,fd00::2", "fd00::2"),
            ("10.0.0.1,cc1", "cc1"),
            ("10.0.0.1,0.0.0.0", "the wildcard address"),
            ("127.0.0.1,10.0.0.1", "another-node"),
            ("10.0.0.1,10.0.0.3", "another-node"),
        ] {
            assert_eq!(here(text), left, "{text}");
        }
    }

    #[test]
    fn a_pool_is_known_by_the_options_of_cmon() {
        assert!(is_in_a_pool(b"EXTRA_OPTS=\"--cloud-service=x --pool\"\n"));
        for text in [
            "export EXTRA_OPTS=--pool # ours",
            "EXTRA_OPTS=\"$EXTRA_OPTS --pool\"",
            "EXTRA_OPTS+=\" --pool\"",
            "if true\nthen EXTRA_OPTS='--pool'\nfi",
            "EXTRA_OPTS=--pool\nEXTRA_OPTS=\"$EXTRA_OPTS --x\"",
        ] {
            assert!(is_in_a_pool(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "#EXTRA_OPTS=--pool",
            "EXTRA_OPTS=\"--pool-size=3 --no-pool\"",
            "OTHER=--pool",
            "EXTRA_OPTS=$(other)\n # not --pool",
        ] {
            assert!(!is_in_a_pool(text.as_bytes()), "{text:?}");
        }
    }
}
