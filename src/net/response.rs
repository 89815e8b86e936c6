//! The response: an answer as the bytes that go to the client.

use crate::net::metrics;
use crate::net::request::Request;
use crate::verdict::reason::Reason;
use crate::verdict::{Answer, Role, Verdict};

/// Renders the one response with `answer` to `request`. `head_only` leaves out only the body, for a HEAD request.
///
/// Status lines and bodies are fixed: HAProxy configurations in the field match on them.
pub fn render(answer: &Answer, request: Request, head_only: bool) -> Vec<u8> {
    let verdict = answer.verdict;
    match request {
        Request::Agent => agent(verdict),
        Request::Metrics => http(verdict, true, metrics::MEDIA_TYPE, &metrics::render(answer), head_only),
        Request::Role => http(verdict, is_leader(verdict), "text/html", page(verdict), head_only),
        Request::Health => http(verdict, is_known(verdict), "text/html", page(verdict), head_only),
    }
    .into_bytes()
}

fn is_leader(verdict: Verdict) -> bool {
    verdict == Verdict::Known(Role::Leader)
}

fn is_known(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Known(_))
}

fn page(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Known(Role::Leader) => "<html><body>This node is a leader.</body></html>",
        Verdict::Known(Role::Follower) => "<html><body>This node is a follower.</body></html>",
        Verdict::Unknown(_) => "<html><body>This node is in an unknown state.</body></html>",
    }
}

fn http(verdict: Verdict, is_right: bool, media_type: &str, body: &str, head_only: bool) -> String {
    let status = match is_right {
        true => "200 OK",
        false => "503 Service Unavailable",
    };
    let reason = match verdict {
        Verdict::Unknown(reason) => format!("Cmonhachk-Reason: {}\r\n", reason.code()),
        Verdict::Known(_) => String::new(),
    };
    format!(
        "HTTP/1.1 {status}\r\n\
         Content-Type: {media_type}\r\n\
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
}

/// The line for HAProxy's agent check (HAProxy's configuration manual, `agent-check`; 2.6 wants a blank
/// before a description's `#`). A role in the list sets the server up or down at once. An unknown state
/// changes nothing: HAProxy's HTTP check gets its two tries. Maintenance is `stopped`, because `maint` and
/// `drain` last until `ready`, and `ready` would undo what an operator sets on HAProxy itself.
fn agent(verdict: Verdict) -> String {
    match verdict {
        Verdict::Known(Role::Leader) => "up\n".to_string(),
        Verdict::Known(Role::Follower) => "down #follower\n".to_string(),
        Verdict::Unknown(Reason::Maintenance) => "stopped #maintenance\n".to_string(),
        Verdict::Unknown(reason) => format!("#unknown {}\n", reason.code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_answers_200() {
        assert_eq!(
            String::from_utf8(render(&Verdict::Known(Role::Leader).into(), Request::Role, false)).unwrap(),
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 48\r\nConnection: close\r\n\
             Cache-Control: no-store\r\nCmonhachk-State: leader\r\n\r\n\
             <html><body>This node is a leader.</body></html>"
        );
    }

    #[test]
    fn a_follower_answers_503() {
        assert_eq!(
            String::from_utf8(render(&Verdict::Known(Role::Follower).into(), Request::Role, false)).unwrap(),
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: 50\r\nConnection: close\r\n\
             Cache-Control: no-store\r\nCmonhachk-State: follower\r\n\r\n\
             <html><body>This node is a follower.</body></html>"
        );
    }

    #[test]
    fn an_unknown_node_answers_503_and_says_why() {
        for reason in Reason::ALL {
            assert_eq!(
                String::from_utf8(render(&Verdict::Unknown(reason).into(), Request::Role, false)).unwrap(),
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
        for verdict in [
            Verdict::Known(Role::Leader),
            Verdict::Known(Role::Follower),
            Verdict::Unknown(Reason::NoRole),
        ] {
            let whole = render(&verdict.into(), Request::Role, false);
            let head = render(&verdict.into(), Request::Role, true);
            assert!(whole.starts_with(&head));
            assert!(head.ends_with(b"\r\n\r\n"));
        }
    }

    #[test]
    fn a_health_request_differs_from_one_for_the_role_on_a_follower_alone() {
        let render = |verdict: Verdict, request| String::from_utf8(render(&verdict.into(), request, false)).unwrap();
        for verdict in [Verdict::Known(Role::Leader), Verdict::Unknown(Reason::NoRole)] {
            assert_eq!(render(verdict, Request::Health), render(verdict, Request::Role));
        }
        assert_eq!(
            render(Verdict::Known(Role::Follower), Request::Health),
            render(Verdict::Known(Role::Follower), Request::Role).replace("503 Service Unavailable", "200 OK")
        );
    }
}
