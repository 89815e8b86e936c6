//! The answer: a verdict as the bytes that go to the client.

use crate::verdict::Verdict;

/// Renders the one HTTP answer for `verdict`; `head_only` leaves out the body, as a HEAD request
/// wants it, and nothing else.
///
/// Status lines and bodies are fixed: HAProxy configurations in the field match on them.
pub fn render(verdict: Verdict, head_only: bool) -> Vec<u8> {
    let (status, body) = match verdict {
        Verdict::Leader => ("200 OK", "<html><body>This node is a leader.</body></html>"),
        Verdict::Follower => (
            "503 Service Unavailable",
            "<html><body>This node is a follower.</body></html>",
        ),
        Verdict::Unknown(_) => (
            "503 Service Unavailable",
            "<html><body>This node is in an unknown state.</body></html>",
        ),
    };
    let reason = match verdict {
        Verdict::Unknown(reason) => format!("Cmonhachk-Reason: {}\r\n", reason.code()),
        Verdict::Leader | Verdict::Follower => String::new(),
    };
    format!(
        "HTTP/1.1 {status}\r\n\
         Content-Type: text/html\r\n\
         Content-Length: {length}\r\n\
         Connection: close\r\n\
         Cache-Control: no-store\r\n\
         Cmonhachk-State: {state}\r\n\
         {reason}\r\n\
         {body}",
        length = body.len(),
        state = verdict.state(),
        body = if head_only { "" } else { body },
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    #[test]
    fn the_leader_answers_200() {
        assert_eq!(
            String::from_utf8(render(Verdict::Leader, false)).unwrap(),
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 48\r\nConnection: close\r\n\
             Cache-Control: no-store\r\nCmonhachk-State: leader\r\n\r\n\
             <html><body>This node is a leader.</body></html>"
        );
    }

    #[test]
    fn a_follower_answers_503() {
        assert_eq!(
            String::from_utf8(render(Verdict::Follower, false)).unwrap(),
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: 50\r\nConnection: close\r\n\
             Cache-Control: no-store\r\nCmonhachk-State: follower\r\n\r\n\
             <html><body>This node is a follower.</body></html>"
        );
    }

    #[test]
    fn an_unknown_node_answers_503_and_says_why() {
        for reason in Reason::ALL {
            assert_eq!(
                String::from_utf8(render(Verdict::Unknown(reason), false)).unwrap(),
                format!(
                    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: 59\r\nConnection: close\r\n\
                     Cache-Control: no-store\r\nCmonhachk-State: unknown\r\nCmonhachk-Reason: {}\r\n\r\n\
                     <html><body>This node is in an unknown state.</body></html>",
                    reason.code()
                )
            );
        }
    }

    #[test]
    fn head_gets_the_same_head_and_no_body() {
        for verdict in [Verdict::Leader, Verdict::Follower, Verdict::Unknown(Reason::NoRole)] {
            let whole = render(verdict, false);
            let head = render(verdict, true);
            assert!(whole.starts_with(&head));
            assert!(head.ends_with(b"\r\n\r\n"));
        }
    }
}
