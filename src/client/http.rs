//! One HTTP question, bounded in time and in bytes: a node that is broken or hostile costs neither.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How much of a head is read, in bytes. Ours have some 300.
const MAX_HEAD: usize = 4096;

/// Why a port gives no HTTP answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nothing listens on the port.
    Refused,
    /// The network says that there is no way to the host.
    Unreachable,
    /// The connection is not accepted in time.
    NotAccepted,
    /// It is accepted, and nothing comes.
    Mute,
    /// It is closed without a byte.
    Closed,
}

/// An HTTP answer, as far as it was read.
#[derive(Debug, Default)]
pub struct Answer {
    /// The lines of its head, without their line ends; the first one is the status line.
    head: Vec<String>,
    /// What came after the head.
    pub body: String,
}

impl Answer {
    /// The answer in these bytes.
    pub fn of(bytes: &[u8]) -> Answer {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = parts(&text).unwrap_or((&text, ""));
        let mut answer = Answer {
            head: head.lines().map(str::to_string).collect(),
            body: body.to_string(),
        };
        // HAProxy sends its statistics so, also to a client of HTTP/1.0.
        if answer.header("Transfer-Encoding") == Some("chunked") {
            answer.body = whole(body);
        }
        answer
    }

    /// The status code.
    pub fn status(&self) -> Option<u16> {
        let line = self.head.first().filter(|line| line.starts_with("HTTP/"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// The value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.iter().skip(1).filter_map(|line| line.split_once(':'));
        let (_, value) = headers.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.trim())
    }
}

/// A head and what follows its blank line, if that has come.
fn parts(text: &str) -> Option<(&str, &str)> {
    let ends = ["\r\n\r\n", "\n\n"].into_iter();
    let ends = ends.filter_map(|end| Some((text.find(end)?, end.len())));
    let (at, length) = ends.min()?;
    Some((&text[..at], &text[at + length..]))
}

/// What is in the chunks of a body, as far as they came. Each begins with a line that has its length, in hexadecimal
/// (RFC 9112, 7.1).
fn whole(chunks: &str) -> String {
    let mut text = String::new();
    let mut rest = chunks;
    while let Some((length, after)) = rest.split_once("\r\n") {
        let Ok(length) = usize::from_str_radix(length, 16) else {
            break;
        };
        let Some(chunk) = after.get(..length) else {
            return text + after;
        };
        text += chunk;
        rest = after[length..].trim_start_matches("\r\n");
    }
    text
}

/// Asks for the head of `path`. What has no whole head of 4 KiB at most is an empty answer.
///
/// # Errors
/// Nothing comes.
pub fn head(to: SocketAddr, path: &str, within: Duration) -> Result<Answer, Silence> {
    let head = exchange(to, &format!("HEAD {path}"), within, MAX_HEAD)?;
    let is_whole = parts(&String::from_utf8_lossy(&head)).is_some();
    Ok(if is_whole { Answer::of(&head) } else { Answer::default() })
}

/// Asks for `path`, and reads at most `max` bytes of the answer.
///
/// # Errors
/// Nothing comes.
pub fn get(to: SocketAddr, path: &str, within: Duration, max: usize) -> Result<Answer, Silence> {
    let answer = exchange(to, &format!("GET {path}"), within, max)?;
    Ok(Answer::of(&answer))
}

fn exchange(to: SocketAddr, question: &str, within: Duration, max: usize) -> Result<Vec<u8>, Silence> {
    let deadline = Instant::now() + within;
    let mut stream = connect(to, within)?;
    let request = format!("{question} HTTP/1.0\r\n\r\n");
    // A connection that is closed at once shows it when it is read.
    let _ = stream.write_all(request.as_bytes());
    read(&mut stream, deadline, max)
}

/// Whether a server says anything to a client who begins to speak HTTP. One of TLS says that it is one of TLS.
///
/// # Errors
/// Nothing comes.
pub fn says_anything(to: SocketAddr, within: Duration) -> Result<(), Silence> {
    get(to, "/", within, 1).map(drop)
}

/// Opens a connection.
///
/// # Errors
/// It is not accepted.
pub fn connect(to: SocketAddr, within: Duration) -> Result<TcpStream, Silence> {
    TcpStream::connect_timeout(&to, within).map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => Silence::Refused,
        ErrorKind::TimedOut => Silence::NotAccepted,
        _ => Silence::Unreachable,
    })
}

fn read(stream: &mut TcpStream, deadline: Instant, max: usize) -> Result<Vec<u8>, Silence> {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while answer.len() < max {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            break;
        }
        let room = chunk.len().min(max - answer.len());
        match stream.read(&mut chunk[..room]) {
            Ok(0) => return or(answer, Silence::Closed),
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(_) => return or(answer, Silence::Closed),
        }
    }
    or(answer, Silence::Mute)
}

fn or(answer: Vec<u8>, silence: Silence) -> Result<Vec<u8>, Silence> {
    if answer.is_empty() { Err(silence) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What is in the head of an answer, if something sends this and closes the connection.
    fn head_of(sent: impl Into<Vec<u8>>) -> Result<Answer, Silence> {
        let sent = sent.into();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 19];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(&request, b"HEAD / HTTP/1.0\r\n\r\n");
            // The client may have heard enough.
            let _ = stream.write_all(&sent);
        });
        let head = head(address, "/", Duration::from_secs(20));
        server.join().unwrap();
        head
    }

    #[test]
    fn only_a_whole_head_of_4_kib_at_most_counts() {
        assert_eq!(
            head_of("HTTP/1.1 200 OK\r\na: b\r\n\r\n").unwrap().header("a"),
            Some("b")
        );
        let longest = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(MAX_HEAD - 24));
        assert_eq!(longest.len(), MAX_HEAD);
        assert_eq!(head_of(longest.as_str()).unwrap().status(), Some(200));

        for cut in [format!("X{longest}"), "HTTP/1.1 200 OK\r\n".to_string()] {
            assert_eq!(head_of(cut).unwrap().status(), None);
        }
        assert_eq!(head_of("").unwrap_err(), Silence::Closed);
    }

    #[test]
    fn a_header_is_one_of_the_head() {
        let answer = Answer::of(b"HTTP/1.1 503 No\r\ncmonhachk-state: follower \r\n\r\nCmonhachk-State: leader\r\n");
        assert_eq!(answer.status(), Some(503));
        assert_eq!(answer.header("Cmonhachk-State"), Some("follower"));
        assert_eq!(answer.body, "Cmonhachk-State: leader\r\n");
    }

    #[test]
    fn a_body_in_chunks_is_put_together() {
        let of = |body: &str| {
            Answer::of(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}").as_bytes()).body
        };
        assert_eq!(of("3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"), "abc0123456789");
        assert_eq!(of("5\r\nabc"), "abc");
        assert_eq!(of("x\r\nabc"), "");
        assert_eq!(of("FFFFFFFFFFFFFFFFFF\r\nabc"), "");
    }

    #[test]
    fn what_is_no_answer_has_no_status() {
        for bytes in ["", "\n\n", "garbage 200", "HTTP/1.1", "HTTP/1.1 abc"] {
            assert_eq!(Answer::of(bytes.as_bytes()).status(), None, "{bytes:?}");
        }
        assert!(Answer::of(&[0xff, b'\n', 0xfe]).header("a").is_none());
    }
}
