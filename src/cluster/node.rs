//! Who this node is: `RPC_BIND_ADDRESSES` in the controller's defaults file, or `--node`.
//!
//! The file is shell-style, `/etc/default/cmon` as the ClusterControl packages install it. It is
//! read, never evaluated.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::anyhow;

use super::list::Row;
use crate::os::env_file::{Line, lines};
use crate::verdict::reason::{Fault, Reason};

/// The variable that names this node.
const NAME: &str = "RPC_BIND_ADDRESSES";

/// Names that Debian's and Red Hat's /etc/hosts give to loopback.
const LOOPBACK_NAMES: [&str; 4] = ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"];

/// One entry of `RPC_BIND_ADDRESSES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindAddress {
    /// An address. An IPv4-mapped IPv6 address is kept as the IPv4 address.
    Address(IpAddr),
    /// `0.0.0.0` or `::`: every address of this machine's interfaces.
    Wildcard,
    /// A loopback address. It is the same on every node, so it does not name one.
    Loopback(IpAddr),
    /// A host name.
    Name(String),
}

impl BindAddress {
    /// The entry that a word of the list is; None for a word that is neither an address nor a host name.
    fn parse(word: &[u8]) -> Option<BindAddress> {
        let word = std::str::from_utf8(word).ok()?;
        if let Ok(address) = word.parse::<IpAddr>() {
            return Some(match address.to_canonical() {
                address if address.is_unspecified() => BindAddress::Wildcard,
                address if address.is_loopback() => BindAddress::Loopback(address),
                address => BindAddress::Address(address),
            });
        }
        if LOOPBACK_NAMES.iter().any(|name| name.eq_ignore_ascii_case(word)) {
            return Some(BindAddress::Loopback(Ipv4Addr::LOCALHOST.into()));
        }
        is_host_name(word).then(|| BindAddress::Name(word.to_string()))
    }
}

/// Whether the word can be a host name (RFC 952 and RFC 1123, section 2.1, and the underscore, which resolvers take):
/// labels of letters, digits and hyphens, of which the last is no number, so that it is no address.
fn is_host_name(word: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !label.is_empty() && label.bytes().all(is_inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let name = word.strip_suffix('.').unwrap_or(word);
    let last = name.rsplit('.').next().unwrap_or_default();
    name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindAddress::Address(address) | BindAddress::Loopback(address) => address.fmt(f),
            BindAddress::Wildcard => f.write_str("the wildcard address"),
            BindAddress::Name(name) => name.fmt(f),
        }
    }
}

/// Reads the entries of `RPC_BIND_ADDRESSES` from the defaults file's text, in order, with loopback.
/// The last assignment counts; its value is a list separated by commas or blanks.
///
/// # Errors
/// [`Reason::DefaultsUnclear`] where only a shell can tell the value, or a word of it is neither an address nor a host
/// name; [`Reason::NoBindAddresses`] where nothing is assigned; [`Reason::OnlyLoopback`] where no entry could tell one
/// node from another.
pub fn bind_addresses(text: &[u8]) -> Result<Vec<BindAddress>, Fault> {
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
        Some((_, Some(value))) => {
            let entries = entries(&value, NAME).map_err(|error| Reason::DefaultsUnclear.because(error))?;
            naming(entries, NAME)
        }
        Some((number, None)) => Err(unclear(number, "assigns a variable's value")),
        None => Err(Reason::NoBindAddresses.because(anyhow!("no line assigns {NAME}"))),
    }
}

/// The entries of `--node`, which is a list of the same form.
///
/// # Errors
/// [`Reason::BadArguments`] for a word that is neither an address nor a host name; otherwise as for
/// [`bind_addresses`].
pub fn given(list: &str) -> Result<Vec<BindAddress>, Fault> {
    let entries = entries(list.as_bytes(), "--node").map_err(|error| Reason::BadArguments.because(error))?;
    naming(entries, "--node")
}

fn entries(list: &[u8], origin: &str) -> anyhow::Result<Vec<BindAddress>> {
    let words = list.split(|byte| *byte == b',' || byte.is_ascii_whitespace());
    let entry = |word: &[u8]| {
        BindAddress::parse(word).ok_or_else(|| {
            let word = String::from_utf8_lossy(word);
            anyhow!("\"{word}\" in {origin} is neither an address nor a host name")
        })
    };
    words.filter(|word| !word.is_empty()).map(entry).collect()
}

/// The entries, if they can name a node.
fn naming(entries: Vec<BindAddress>, origin: &str) -> Result<Vec<BindAddress>, Fault> {
    if entries.is_empty() {
        return Err(Reason::NoBindAddresses.because(anyhow!("{origin} is an empty list")));
    }
    if entries.iter().all(|entry| matches!(entry, BindAddress::Loopback(_))) {
        return Err(Reason::OnlyLoopback.because(anyhow!("{origin} is {}", join(&entries))));
    }
    Ok(entries)
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

/// The entries as an operator would write them.
pub fn join(entries: &[BindAddress]) -> String {
    entries
        .iter()
        .map(BindAddress::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The entry, and what it means on a machine with the addresses `interfaces`, for a person.
pub fn describe(entry: &BindAddress, interfaces: &[IpAddr]) -> String {
    match entry {
        BindAddress::Address(address) if !interfaces.contains(address) => {
            format!("{address} (no interface of this machine has it)")
        }
        BindAddress::Address(address) => address.to_string(),
        BindAddress::Loopback(address) => format!("{address} (loopback: ignored)"),
        BindAddress::Name(_) => format!("{entry} (host name)"),
        BindAddress::Wildcard if interfaces.is_empty() => format!("{entry} (no interface has an address)"),
        BindAddress::Wildcard => {
            let addresses: Vec<_> = interfaces.iter().map(ToString::to_string).collect();
            format!("{entry}: {}", addresses.join(", "))
        }
    }
}

/// This node, as its operator and its interfaces name it.
#[derive(Clone, Debug)]
pub struct Node {
    entries: Vec<BindAddress>,
    interfaces: Vec<IpAddr>,
    is_given: bool,
}

impl Node {
    /// The node that `--node` names. It is not questioned: behind NAT or in a container, no interface has the address
    /// in the list. `interfaces` are what a wildcard stands for.
    pub fn as_given(entries: Vec<BindAddress>, interfaces: Vec<IpAddr>) -> Node {
        Node {
            entries,
            interfaces,
            is_given: true,
        }
    }

    /// The node with those of the entries that can be this machine's, whose interfaces have the addresses
    /// `interfaces`: the defaults file may be a copy from another node.
    ///
    /// # Errors
    /// [`Reason::AnotherNode`] where no entry is left.
    pub fn of_this_machine(entries: &[BindAddress], interfaces: Vec<IpAddr>) -> Result<Node, Fault> {
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
        Ok(Node {
            entries: here,
            interfaces,
            is_given: false,
        })
    }

    /// The entries, as an operator would write them.
    pub fn names(&self) -> String {
        join(&self.entries)
    }

    /// Whether the row is this node's.
    pub(super) fn has(&self, row: &Row<'_>) -> bool {
        let address = row.address();
        self.entries.iter().any(|entry| match entry {
            BindAddress::Address(own) => address == Some(*own),
            BindAddress::Wildcard => {
                address.is_some_and(|address| self.interfaces.contains(&address)) && !self.is_named_elsewhere(row)
            }
            BindAddress::Name(own) => has_name(row, own) && !address.is_some_and(|address| self.is_elsewhere(address)),
            BindAddress::Loopback(_) => false,
        })
    }

    /// Refuses a row that has a name of this node and an address of another machine.
    ///
    /// # Errors
    /// [`Reason::AnotherNode`], with the name and the address.
    pub(super) fn question(&self, row: &Row<'_>) -> Result<(), Fault> {
        let has_name = |entry: &BindAddress| matches!(entry, BindAddress::Name(own) if has_name(row, own));
        let Some(address) = row.address() else {
            return Ok(());
        };
        if !self.is_elsewhere(address) || !self.entries.iter().any(has_name) {
            return Ok(());
        }
        let name = String::from_utf8_lossy(row.name);
        Err(Reason::AnotherNode.because(anyhow!(
            "the list gives {name} the address {address}, and no interface of this machine has it"
        )))
    }

    /// Whether no interface of this machine has the address. Loopback is on every machine: /etc/hosts may give it to
    /// the machine's own name.
    fn is_elsewhere(&self, address: IpAddr) -> bool {
        !self.is_given && !address.is_loopback() && !self.interfaces.contains(&address)
    }

    /// Whether the row's NAME is an address that no interface of this machine has. Its IP may then be one that every
    /// node has, such as docker0's.
    fn is_named_elsewhere(&self, row: &Row<'_>) -> bool {
        row.name_as_address().is_some_and(|address| self.is_elsewhere(address))
    }
}

fn has_name(row: &Row<'_>, own: &str) -> bool {
    row.name.eq_ignore_ascii_case(own.as_bytes())
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
        assert_eq!(read(b"RPC_BIND_ADDRESSES='cc\xe9'"), "defaults-unclear");
    }

    #[test]
    fn each_entry_is_what_it_says() {
        let entries =
            bind_addresses(b"RPC_BIND_ADDRESSES=127.9.9.9,::1,::ffff:127.0.0.1,0.0.0.0,::,fd00:0::a,::ffff:10.0.0.1,CC1.example.com,cc_1,3com.,ip6-LocalHost")
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
                BindAddress::Name("CC1.example.com".to_string()),
                BindAddress::Name("cc_1".to_string()),
                BindAddress::Name("3com.".to_string()),
                BindAddress::Loopback(address("127.0.0.1")),
            ]
        );
    }

    #[test]
    fn a_word_that_is_neither_an_address_nor_a_host_name_is_not_guessed_at() {
        for word in [
            "10.0.0.101:9500",
            "10.0.0.256",
            "010.0.0.1",
            "10.0.0",
            "[::]",
            "[fd00::2]",
            "fe80::1%eth0",
            "*",
            "-",
            "-cc1",
            "cc1-",
            "cc1..example",
            ".",
            "cc1:9500",
            "cc1/24",
            "cc\u{e9}",
        ] {
            let text = format!("RPC_BIND_ADDRESSES='127.0.0.1,10.0.0.1,{word}'");
            let fault = bind_addresses(text.as_bytes()).unwrap_err();
            assert_eq!(fault.reason, Reason::DefaultsUnclear, "{word}");
            let detail = format!("{:#}", fault.detail);
            assert!(detail.contains(&format!("\"{word}\"")), "{detail}");
            assert_eq!(given(word).unwrap_err().reason, Reason::BadArguments, "{word}");
        }
    }

    #[test]
    fn loopback_alone_names_no_node() {
        for text in [
            "RPC_BIND_ADDRESSES=127.0.0.1",
            "RPC_BIND_ADDRESSES=\"127.0.0.1,::1\"",
            "RPC_BIND_ADDRESSES=127.255.0.3",
            "RPC_BIND_ADDRESSES=localhost,LocalHost",
            "RPC_BIND_ADDRESSES=localhost.localdomain,ip6-loopback",
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
            let entries = given(text).unwrap();
            let interfaces = ["10.0.0.2", "fd00::2"].map(|address| address.parse().unwrap());
            match Node::of_this_machine(&entries, interfaces.to_vec()) {
                Ok(node) => node.names(),
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
