//! The request head: when it is complete, and whether its sender wants a body.

/// How much of a request is read before it is answered, complete or not. In bytes.
pub const MAX_HEAD: usize = 8 * 1024;

/// Whether `received` holds a whole request head, that is, ends in or goes past its blank line.
/// A bare `\n` ends a line as well as `\r\n` does, and empty lines before the request line do not
/// count (RFC 9112, section 2.2).
pub fn is_complete(received: &[u8]) -> bool {
    let head = from_request_line(received);
    let blank_line = |at: usize| matches!(&head[at..], [b'\n', b'\n', ..] | [b'\n', b'\r', b'\n', ..]);
    (0..head.len()).any(blank_line)
}

/// Whether the answer to `received` has no body: its method is HEAD.
pub fn is_head(received: &[u8]) -> bool {
    from_request_line(received).starts_with(b"HEAD ")
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
}
