//! The request: when it is complete, and what it asks for.

/// How much of a request is read before it is answered, complete or not. In bytes.
pub const MAX_HEAD: usize = 8 * 1024;

/// The first line of a connection that speaks HAProxy's agent protocol instead of HTTP.
const AGENT: &[u8] = b"agent";

/// What a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Request {
    /// HTTP: does this node lead?
    #[default]
    Role,
    /// HTTP, path `/health`: is this node's role known?
    Health,
    /// HTTP, path `/metrics`: the verdict for Prometheus.
    Metrics,
    /// A line for HAProxy's agent check.
    Agent,
}

/// Whether `received` holds a whole request: an agent's line, or a request head, which ends at its
/// blank line. A bare `\n` ends a line as well as `\r\n` does, and empty lines before the request line
/// do not count (RFC 9112, section 2.2).
pub fn is_complete(received: &[u8]) -> bool {
    let head = from_request_line(received);
    let blank_line = |at: usize| matches!(&head[at..], [b'\n', b'\n', ..] | [b'\n', b'\r', b'\n', ..]);
    (0..head.len()).any(blank_line) || (is_agent(head) && head.contains(&b'\n'))
}

/// Whether the response to `received` has no body: its method is HEAD.
pub fn is_head(received: &[u8]) -> bool {
    from_request_line(received).starts_with(b"HEAD ")
}

/// What `received` asks for. A request of no other kind asks for the role.
///
/// Metrics are always 200. They are for GET and HEAD of HTTP/1.1 alone: HAProxy's check asks with HTTP/1.0, so a check
/// that has this path by mistake is told the role.
pub fn request(received: &[u8]) -> Request {
    let head = from_request_line(received);
    if is_agent(head) {
        return Request::Agent;
    }
    let mut words = first_line(head).split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next().unwrap_or_default(), words.next());
    match target.split(|byte| *byte == b'?').next() {
        Some(b"/health") => Request::Health,
        Some(b"/metrics") if matches!(method, Some(b"GET" | b"HEAD")) && version == Some(b"HTTP/1.1") => {
            Request::Metrics
        }
        _ => Request::Role,
    }
}

fn is_agent(head: &[u8]) -> bool {
    first_line(head) == AGENT
}

fn first_line(head: &[u8]) -> &[u8] {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn from_request_line(received: &[u8]) -> &[u8] {
    let start = received.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    &received[start.unwrap_or(received.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_complete_at_its_blank_line() {
        assert!(is_complete(b"GET / HTTP/1.0\r\n\r\n"));
        assert!(is_complete(b"OPTIONS / HTTP/1.0\r\nHost: a\r\n\r\nbody"));
        assert!(is_complete(b"GET / HTTP/1.0\n\n"));
        assert!(is_complete(b"\r\n\r\nGET / HTTP/1.0\r\n\r\n"));
        assert!(is_complete(b"agent\n"));
        assert!(is_complete(b"agent\r\nmore"));
    }

    #[test]
    fn anything_less_is_not() {
        for part in [
            &b""[..],
            b"\r\n\r\n",
            b"\n\n",
            b"GET / HTTP/1.0",
            b"GET / HTTP/1.0\r\n",
            b"GET / HTTP/1.0\r\n\r",
            b"agent",
            b"agents\n",
            b"agent /\n",
        ] {
            assert!(!is_complete(part), "{part:?}");
        }
    }

    #[test]
    fn only_the_method_head_wants_no_body() {
        assert!(is_head(b"HEAD / HTTP/1.1\r\n\r\n"));
        assert!(is_head(b"\r\nHEAD / HTTP/1.1\r\n\r\n"));
        for other in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"HEADER / HTTP/1.1\r\n\r\n",
            b"head / HTTP/1.1\r\n\r\n",
            b"",
            b"GET /HEAD ",
        ] {
            assert!(!is_head(other), "{other:?}");
        }
    }

    #[test]
    fn the_path_and_the_first_line_say_what_is_asked_for() {
        for (received, asked) in [
            (&b"agent\n"[..], Request::Agent),
            (b"\nagent\r\n", Request::Agent),
            (b"GET /health HTTP/1.1\r\n\r\n", Request::Health),
            (b"HEAD /health?verbose HTTP/1.0\n\n", Request::Health),
            (b"OPTIONS /health", Request::Health),
            (b"GET http://cc1:9201/health HTTP/1.1\r\n\r\n", Request::Role),
            (b"GET /health/ HTTP/1.1\r\n\r\n", Request::Role),
            (b"GET /healthy HTTP/1.1\r\n\r\n", Request::Role),
            (b"GET / HTTP/1.1\r\nX: /health\r\n\r\n", Request::Role),
            (b"GET /?/health HTTP/1.1\r\n\r\n", Request::Role),
            (b"GET /metrics HTTP/1.1\r\n\r\n", Request::Metrics),
            (b"HEAD /metrics?name[]=up HTTP/1.1\n\n", Request::Metrics),
            (b"OPTIONS /metrics HTTP/1.1\r\n\r\n", Request::Role),
            (b"GET /metrics HTTP/1.0\r\n\r\n", Request::Role),
            (b"GET /metrics", Request::Role),
            (b"GET /metrics/ HTTP/1.1\r\n\r\n", Request::Role),
            (b"Agent\n", Request::Role),
            (b"agent /health", Request::Health),
            (b"", Request::Role),
        ] {
            assert_eq!(request(received), asked, "{received:?}");
        }
    }
}
