//! `cmonhachk-leads ADDRESS UI-PORT`: should the node with this address have the address that users go to? keepalived
//! asks this each second (deploy/keepalived/leader.conf). The exit status is 0 if the check there says that the node
//! leads, and the node's UI accepts connections. Otherwise it is 1.
//!
//! Only "follower" counts at once. Whatever else speaks against the node is asked again, when a cached verdict has
//! expired. So one check that is lost or slow moves nobody.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: cmonhachk-leads ADDRESS UI-PORT";

/// The port of the check.
const CHECK_PORT: u16 = 9201;

/// The role is in the head, so the response needs no body.
const REQUEST: &[u8] = b"HEAD / HTTP/1.0\r\n\r\n";

/// How long the check may take to answer. By itself it takes 1.7 s at most; an operator may have given it more time
/// (`--timeout`). Two questions must fit into the `timeout` of leader.conf.
const CHECK_LIMIT: Duration = Duration::from_secs(3);

/// How long the UI may take to accept a connection.
const UI_LIMIT: Duration = Duration::from_millis(500);

/// When the second question begins, counted from the first one. A verdict is used again for 0.9 s (`--max-age`; an
/// operator may have set 1 s), and the first question may have needed some time to get to the check.
const AGAIN: Duration = Duration::from_millis(1100);

/// How much of a response is read. A head of the check has 200 bytes.
const MAX_HEAD: usize = 4096;

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

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

/// Where a node's check and UI are.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    check: SocketAddr,
    ui: SocketAddr,
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
        (ui_port != 0).then_some(Node {
            check: SocketAddr::new(address, CHECK_PORT),
            ui: SocketAddr::new(address, ui_port),
        })
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
        let port = self.check.port();
        let head = match self.head() {
            Ok(head) => head,
            Err(error) => return Answer::Unclear(format!("no answer at port {port} ({})", in_words(&error))),
        };
        match role(&head) {
            Answer::Leads => self.ask_ui(),
            other => other,
        }
    }

    /// What a leader's UI says.
    fn ask_ui(&self) -> Answer {
        match TcpStream::connect_timeout(&self.ui, UI_LIMIT) {
            Ok(_) => Answer::Leads,
            Err(error) => Answer::Unclear(format!(
                "it leads, but its UI at port {} accepts no connection ({})",
                self.ui.port(),
                in_words(&error)
            )),
        }
    }

    /// The head of the check's response.
    fn head(&self) -> io::Result<String> {
        let deadline = Instant::now() + CHECK_LIMIT;
        let mut stream = TcpStream::connect_timeout(&self.check, left(deadline)?)?;
        stream.set_write_timeout(Some(left(deadline)?))?;
        stream.write_all(REQUEST)?;
        let mut received = Vec::new();
        let mut part = [0; MAX_HEAD];
        while received.len() < MAX_HEAD {
            stream.set_read_timeout(Some(left(deadline)?))?;
            let free = MAX_HEAD - received.len();
            match stream.read(&mut part[..free]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => received.extend_from_slice(&part[..count]),
                // A process that was stopped and goes on.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if let Some(length) = length_of_head(&received) {
                return Ok(String::from_utf8_lossy(&received[..length]).into_owned());
            }
        }
        Err(ErrorKind::InvalidData.into())
    }
}

/// The time until the deadline; an error if there is none.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(left)
}

fn in_words(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ConnectionRefused => "nothing listens there",
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "none in time",
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => "the connection ended",
        ErrorKind::InvalidData => "it is no response of cmonhachk",
        _ => "the network has a fault",
    }
}

fn length_of_head(received: &[u8]) -> Option<usize> {
    received
        .windows(END_OF_HEAD.len())
        .position(|bytes| bytes == END_OF_HEAD)
}

/// What a head says of the node. 200 alone is not enough: another program may have the port.
fn role(head: &str) -> Answer {
    let status_line = head.split("\r\n").next().unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1));
    match (status, field("Cmonhachk-State", head)) {
        (Some("200"), Some("leader")) => Answer::Leads,
        (Some(_), Some("follower")) => Answer::Follows,
        (Some(_), Some("unknown")) => Answer::Unclear(format!("its role is unknown, {}", reason(head))),
        _ => Answer::Unclear(format!("another program has port {CHECK_PORT}")),
    }
}

/// The reason for an unknown role. It goes to a terminal, so it must be one of our words.
fn reason(head: &str) -> &str {
    let is_word = |text: &&str| {
        text.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    field("Cmonhachk-Reason", head)
        .filter(is_word)
        .unwrap_or("without a reason")
}

/// The value of a header field.
fn field<'a>(name: &str, head: &'a str) -> Option<&'a str> {
    let mut fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    fields.find_map(|(named, value)| named.eq_ignore_ascii_case(name).then(|| value.trim()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LEADER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 48\r\nCmonhachk-State: leader";

    fn parsed(arguments: &[&str]) -> Option<Node> {
        Node::from_arguments(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_node_is_an_address_and_the_port_of_its_ui() {
        let node = parsed(&["10.0.0.101", "9443"]).unwrap();
        assert_eq!(node.check, "10.0.0.101:9201".parse().unwrap());
        assert_eq!(node.ui, "10.0.0.101:9443".parse().unwrap());
        let node = parsed(&["fd00::101", "443"]).unwrap();
        assert_eq!(node.check, "[fd00::101]:9201".parse().unwrap());
        assert_eq!(node.ui, "[fd00::101]:443".parse().unwrap());
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

    #[test]
    fn a_leader_is_who_says_so_with_status_200() {
        assert_eq!(role(LEADER), Answer::Leads);
        assert_eq!(role(&LEADER.to_uppercase().replace("LEADER", "leader")), Answer::Leads);
        assert_eq!(role(&LEADER.replace("1.1", "1.0")), Answer::Leads);
    }

    #[test]
    fn a_follower_is_who_says_so() {
        let follower = LEADER
            .replace("200 OK", "503 Service Unavailable")
            .replace("leader", "follower");
        assert_eq!(role(&follower), Answer::Follows);
    }

    #[test]
    fn everything_else_is_unclear() {
        for head in [
            "",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK\r\nCmonhachk-State:",
            "HTTP/1.1 200 OK\r\nCmonhachk-State: Leader",
            "HTTP/1.1 200 OK\r\nX-Cmonhachk-State: leader",
            "HTTP/1.1 200 OK\r\nX: Cmonhachk-State: leader",
            "Cmonhachk-State: leader\r\nHTTP/1.1 200 OK",
            "HTTP/1.1 503 Service Unavailable\r\nCmonhachk-State: leader",
            "HTTP/1.1 2000 OK\r\nCmonhachk-State: leader",
            "HTTP/2 200 OK\r\nCmonhachk-State: leader",
            "up\r\nCmonhachk-State: follower",
        ] {
            let answer = Answer::Unclear("another program has port 9201".to_string());
            assert_eq!(role(head), answer, "{head}");
        }
    }

    #[test]
    fn an_unknown_role_has_its_reason_and_nothing_else() {
        let unknown = |field: &str| role(&format!("HTTP/1.1 503 No\r\nCmonhachk-State: unknown\r\n{field}"));
        let because = |why: &str| Answer::Unclear(format!("its role is unknown, {why}"));
        assert_eq!(unknown("Cmonhachk-Reason: s9s-timeout"), because("s9s-timeout"));
        assert_eq!(unknown("Cmonhachk-Reason: \x1b[2J"), because("without a reason"));
        assert_eq!(unknown("X: y"), because("without a reason"));
    }

    #[test]
    fn a_head_ends_at_its_blank_line() {
        assert_eq!(length_of_head(b"HTTP/1.1 200 OK\r\n\r\nbody"), Some(15));
        assert_eq!(length_of_head(b"HTTP/1.1 200 OK\r\n\r"), None);
        assert_eq!(length_of_head(b""), None);
    }

    /// What the node's head is if something at its port sends this and closes the connection.
    fn head_of(sent: impl Into<Vec<u8>>) -> io::Result<String> {
        let sent = sent.into();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; REQUEST.len()];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(request, REQUEST);
            // It may have heard enough.
            let _ = stream.write_all(&sent);
        });
        let node = Node {
            check: address,
            ui: address,
        };
        let head = node.head();
        server.join().unwrap();
        head
    }

    #[test]
    fn only_a_whole_head_of_4_kib_at_most_counts() {
        assert_eq!(head_of("a: b\r\n\r\n").unwrap(), "a: b");
        let longest = "a".repeat(MAX_HEAD - 4) + "\r\n\r\n";
        assert_eq!(head_of(longest.as_str()).unwrap().len(), MAX_HEAD - 4);

        let kind = |sent: String| head_of(sent).unwrap_err().kind();
        assert_eq!(kind(format!("a{longest}")), ErrorKind::InvalidData);
        assert_eq!(kind("HTTP/1.1 200 OK\r\n".to_string()), ErrorKind::UnexpectedEof);
        assert_eq!(kind(String::new()), ErrorKind::UnexpectedEof);
    }
}
