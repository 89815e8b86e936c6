//! What a node's check says of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::http::{self, Answer, Silence};

/// The port of the check.
pub const PORT: u16 = 9201;

/// What the check on a node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// This node leads.
    Leader,
    /// Another one does.
    Follower,
    /// The check does not know, for the reason with this code.
    Unknown(String),
    /// No cmonhachk answers.
    None(NoAnswer),
}

/// Why no cmonhachk answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// For this reason.
    Silence(Silence),
    /// Something else answers.
    Another,
}

/// Asks the check at this address, which has so much time.
pub fn ask(node: IpAddr, within: Duration) -> State {
    State::of(http::head(SocketAddr::new(node, PORT), "/", within))
}

impl State {
    fn of(answer: Result<Answer, Silence>) -> State {
        let answer = match answer {
            Ok(answer) => answer,
            Err(silence) => return State::None(NoAnswer::Silence(silence)),
        };
        match (answer.status(), answer.header("Cmonhachk-State")) {
            (Some(200), Some("leader")) => State::Leader,
            (Some(503), Some("follower")) => State::Follower,
            (Some(503), Some("unknown")) => match answer.header("Cmonhachk-Reason").filter(|reason| is_code(reason)) {
                Some(reason) => State::Unknown(reason.to_string()),
                None => State::None(NoAnswer::Another),
            },
            _ => State::None(NoAnswer::Another),
        }
    }

    /// The state in words.
    pub fn words(&self) -> String {
        match self {
            State::Leader => "leader".to_string(),
            State::Follower => "follower".to_string(),
            State::Unknown(reason) => format!("unknown {reason}"),
            State::None(why) => format!("no answer: {}", why.words()),
        }
    }
}

impl NoAnswer {
    /// Whether cmonhachk is not installed there, as far as one can tell from here.
    pub fn is_missing(self) -> bool {
        matches!(self, NoAnswer::Another | NoAnswer::Silence(Silence::Refused))
    }

    fn words(self) -> &'static str {
        match self {
            NoAnswer::Another => "another program has port 9201",
            NoAnswer::Silence(Silence::Refused) => "nothing listens on port 9201",
            NoAnswer::Silence(Silence::Unreachable) => "the host is down, or no way leads there",
            NoAnswer::Silence(Silence::NotAccepted) => {
                "port 9201 is silent; the host is down, or a firewall or IPAddressAllow keeps this host out"
            }
            NoAnswer::Silence(Silence::Mute) => {
                "port 9201 accepts the connection and is silent; the host may be frozen"
            }
            NoAnswer::Silence(Silence::Closed) => {
                "port 9201 closes the connection; only_from of xinetd may keep this host out"
            }
        }
    }
}

/// Whether this can be the code of a reason. Other text could control the terminal.
fn is_code(reason: &str) -> bool {
    let is_of_code = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    (1..=60).contains(&reason.len()) && reason.chars().all(is_of_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(head: &str) -> State {
        State::of(Ok(Answer::of(head.as_bytes())))
    }

    #[test]
    fn a_state_is_what_our_responses_can_say() {
        assert_eq!(
            state("HTTP/1.1 200 OK\r\nCmonhachk-State: leader\r\n\r\n"),
            State::Leader
        );
        assert_eq!(
            state("HTTP/1.1 503 S\r\nCmonhachk-State: follower\r\n\r\n"),
            State::Follower
        );
        let unknown = state("HTTP/1.1 503 S\r\nCmonhachk-State: unknown\r\nCmonhachk-Reason: s9s-refused\r\n\r\n");
        assert_eq!(unknown, State::Unknown("s9s-refused".to_string()));
    }

    #[test]
    fn anything_else_is_another_program() {
        for head in [
            "HTTP/1.1 200 OK\r\n\r\nCmonhachk-State: leader",
            "HTTP/1.1 503 S\r\nCmonhachk-State: leader\r\n\r\n",
            "HTTP/1.1 200 OK\r\nCmonhachk-State: \u{1b}[2Jleader\r\n\r\n",
            "HTTP/1.1 503 S\r\nCmonhachk-State: unknown\r\nCmonhachk-Reason: \u{1b}]0;x\u{7}\r\n\r\n",
            "HTTP/1.1 503 S\r\nCmonhachk-State: unknown\r\n\r\n",
            "HTTP/1.1 200 OK\r\nCmonhachk-State:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nCmonhachk-State: Leader\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-Cmonhachk-State: leader\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: Cmonhachk-State: leader\r\n\r\n",
            "Cmonhachk-State: leader\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\nCmonhachk-State: leader\r\n\r\n",
            "HTTP/1.1 200 OK\r\nCmonhachk-State: follower\r\n\r\n",
            "up\r\nCmonhachk-State: follower\r\n\r\n",
            "leader",
        ] {
            assert_eq!(state(head), State::None(NoAnswer::Another), "{head:?}");
        }
    }
}
