//! `cmonhachk-leads ADDRESS UI-PORT`: should the node with this address have the address that users go to? keepalived
//! asks this each second (deploy/keepalived/leader.conf). The exit status is 0 if the check there says that the node
//! leads, and the node's UI accepts connections. Otherwise it is 1.
//!
//! Only "follower" counts at once. Whatever else speaks against the node is asked again, when a cached verdict has
//! expired. So one check that is lost or slow moves nobody.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use cmonhachk::client::http::{self, Silence};
use cmonhachk::client::state::{self, State};

const USAGE: &str = "usage: cmonhachk-leads ADDRESS UI-PORT";

/// How long the check may take to answer. By itself it takes 1.7 s at most; an operator may have given it more time
/// (`--timeout`). Two questions must fit into the `timeout` of leader.conf.
const CHECK_LIMIT: Duration = Duration::from_secs(3);

/// How long the UI may take to accept a connection.
const UI_LIMIT: Duration = Duration::from_millis(500);

/// When the second question begins, counted from the first one. A verdict is used again for 0.9 s (`--max-age`; an
/// operator may have set 1 s), and the first question may have needed some time to get to the check.
const AGAIN: Duration = Duration::from_millis(1100);

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let Some(node) = Node::from_arguments(&arguments) else {
        // Nobody may listen: keepalived does not.
        let _ = writeln!(io::stderr(), "{USAGE}");
        return ExitCode::from(2);
    };
    let answer = node.answer();
    let _ = writeln!(io::stdout(), "{answer}");
    match answer {
        Answer::Leads => ExitCode::SUCCESS,
        Answer::Follows | Answer::Unclear(_) => ExitCode::FAILURE,
    }
}

/// A node, and where its UI is.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    address: IpAddr,
    ui_port: u16,
}

/// What a question led to.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Leads,
    Follows,
    /// With the reason.
    Unclear(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Leads => formatter.write_str("This node leads, and its UI accepts connections."),
            Answer::Follows => formatter.write_str("This node is a follower."),
            Answer::Unclear(why) => write!(formatter, "This node does not count as the leader: {why}."),
        }
    }
}

impl Node {
    fn from_arguments(arguments: &[OsString]) -> Option<Node> {
        let [address, ui_port] = arguments else {
            return None;
        };
        let address: IpAddr = address.to_str()?.parse().ok()?;
        let ui_port: u16 = ui_port.to_str()?.parse().ok()?;
        (ui_port != 0).then_some(Node { address, ui_port })
    }

    /// The answer to one question, or to the second one if the first is unclear.
    fn answer(&self) -> Answer {
        let began = Instant::now();
        match self.ask() {
            Answer::Unclear(_) => {
                thread::sleep(AGAIN.saturating_sub(began.elapsed()));
                self.ask()
            }
            clear => clear,
        }
    }

    /// Asks once.
    fn ask(&self) -> Answer {
        match state::ask(self.address, CHECK_LIMIT) {
            State::Leader => self.ask_ui(),
            State::Follower => Answer::Follows,
            State::Unknown(reason) => Answer::Unclear(format!("its role is unknown, {reason}")),
            silent @ State::None(_) => Answer::Unclear(silent.words()),
        }
    }

    /// What a leader's UI says.
    fn ask_ui(&self) -> Answer {
        let ui = SocketAddr::new(self.address, self.ui_port);
        let why = match http::connect(ui, UI_LIMIT) {
            Ok(_) => return Answer::Leads,
            Err(Silence::Refused) => "nothing listens there",
            Err(_) => "none in time",
        };
        let port = self.ui_port;
        Answer::Unclear(format!(
            "it leads, but its UI at port {port} accepts no connection ({why})"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Option<Node> {
        Node::from_arguments(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_node_is_an_address_and_the_port_of_its_ui() {
        for (address, ui_port) in [("10.0.0.101", "9443"), ("fd00::101", "443")] {
            let node = parsed(&[address, ui_port]).unwrap();
            assert_eq!(node.address.to_string(), address);
            assert_eq!(node.ui_port.to_string(), ui_port);
        }
    }

    #[test]
    fn other_arguments_are_wrong() {
        for arguments in [
            &[][..],
            &["10.0.0.101"],
            &["10.0.0.101", "443", "443"],
            &["node1", "443"],
            &["10.0.0.101:9201", "443"],
            &["[fd00::101]", "443"],
            &["10.0.0.101/24", "443"],
            &["10.0.0.101", "0"],
            &["10.0.0.101", "65536"],
            &["10.0.0.101", "https"],
            &["--help"],
        ] {
            assert_eq!(parsed(arguments), None, "{arguments:?}");
        }
    }
}
