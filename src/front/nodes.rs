//! What does each node's check say?

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use cmonhachk::client::http::Silence;
use cmonhachk::client::state::{self, NoAnswer, State};

/// A check answers within 2 s. More is for a slow network.
const PATIENCE: Duration = Duration::from_secs(4);

/// Asks all nodes at once.
pub fn ask(nodes: &[IpAddr]) -> Vec<State> {
    thread::scope(|scope| {
        let questions = nodes.iter().map(|node| scope.spawn(|| state::ask(*node, PATIENCE)));
        let questions: Vec<_> = questions.collect();
        let answers = questions.into_iter().map(|question| question.join());
        answers
            .map(|state| state.unwrap_or(State::None(NoAnswer::Silence(Silence::Unreachable))))
            .collect()
    })
}

/// What is wrong with these states, this host's first.
pub fn complaints(nodes: &[IpAddr], states: &[State], own: Option<IpAddr>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (node, state) in nodes.iter().zip(states) {
        let complaint = match state {
            State::Leader | State::Follower => continue,
            State::Unknown(reason) => {
                format!("{node} does not know its role: {reason}; see journalctl -t cmonhachk there")
            }
            State::None(_) => format!("{node} gives {}", state.words()),
        };
        match Some(*node) == own {
            true => complaints.insert(0, complaint),
            false => complaints.push(complaint),
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_complaint_comes_first() {
        let nodes = ["10.0.0.101", "10.0.0.102"].map(|node| node.parse().unwrap());
        let states = ["s9s-refused", "s9s-timeout"].map(|reason| State::Unknown(reason.to_string()));
        let complaints = complaints(&nodes, &states, Some(nodes[1]));
        assert!(
            complaints[0].starts_with("10.0.0.102 does not know its role: s9s-timeout;"),
            "{complaints:?}"
        );
        assert_eq!(complaints.len(), 2);
    }
}
