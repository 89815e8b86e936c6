//! What does the list say of this node?
//!
//! The [`list`] gives each controller a row, and the [`node`] knows which rows are its own. All of this is pure: it
//! touches no clock, no file and no process.

pub mod list;
pub mod node;

use anyhow::anyhow;

use crate::verdict::reason::Reason;
use crate::verdict::{Outcome, Role};
use list::{Row, State};
use node::Node;

/// Finds the role that the list gives this node.
///
/// # Errors
/// The reason why the list gives it no certain role.
pub fn evaluate(node: &Node, rows: &[Row<'_>]) -> Outcome {
    if rows.is_empty() {
        return Err(Reason::NoControllers.because(anyhow!("s9s lists no controllers")));
    }
    let ours: Vec<_> = rows.iter().filter(|row| node.has(row)).collect();
    let Some(row) = ours.first() else {
        rows.iter().try_for_each(|row| node.question(row))?;
        return Err(Reason::NotListed.because(anyhow!("no row for {}", node.names())));
    };
    let text = String::from_utf8_lossy(row.line).into_owned();

    if let Some(other) = ours.iter().find(|other| other.state != row.state) {
        let other = String::from_utf8_lossy(other.line);
        return Err(Reason::RowsDisagree.because(anyhow!("this node has the rows \"{text}\" and \"{other}\"")));
    }
    let leaders = rows.iter().filter(|row| row.state == State::Leader).count();
    if leaders > 1 {
        return Err(Reason::SeveralLeaders.because(anyhow!("{leaders} rows say leader; this node's is \"{text}\"")));
    }

    let reason = match row.state {
        State::Leader => return Ok((Role::Leader, text)),
        State::Follower => return Ok((Role::Follower, text)),
        State::Offline => Reason::Offline,
        State::NoRole => Reason::NoRole,
    };
    Err(reason.because(anyhow!("this node's row is \"{text}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Verdict;
    use crate::verdict::reason::Fault;
    use node::{bind_addresses, given};

    const HEADER: &str = "S VERSION OWNER GROUP NAME               IP              PORT COMMENT\n";

    /// A list of (state, name, IP).
    fn listing(rows: &[(char, &str, &str)]) -> String {
        let mut text = String::from(HEADER);
        for (state, name, ip) in rows {
            text += &format!("{state} 1.9     a     b     {name:<18} {ip:<15} 9501 l 10.0.0.1 10.0.0.1\n");
        }
        text += &format!("Total: {} controller(s)\n", rows.len());
        if rows.is_empty() {
            text = text.replace(HEADER, "");
        }
        text
    }

    /// The addresses of a machine.
    const HERE: [&str; 2] = ["10.0.0.2", "fd00::2"];

    /// The verdict for a node with this `--node`, on a list of (state, name, IP).
    fn told(node: &str, rows: &[(char, &str, &str)]) -> String {
        words(Ok(Node::as_given(given(node).unwrap(), Vec::new())), rows)
    }

    /// The verdict for a machine with the addresses `here` and these bind addresses.
    fn told_on(here: &[&str], addresses: &str, rows: &[(char, &str, &str)]) -> String {
        let entries = bind_addresses(format!("RPC_BIND_ADDRESSES=\"{addresses}\"").as_bytes()).unwrap();
        let interfaces = here.iter().map(|address| address.parse().unwrap()).collect();
        words(Node::of_this_machine(&entries, interfaces), rows)
    }

    fn words(node: Result<Node, Fault>, rows: &[(char, &str, &str)]) -> String {
        let text = listing(rows);
        let outcome = node.and_then(|node| evaluate(&node, &list::parse(text.as_bytes()).unwrap()));
        Verdict::of(&outcome).words()
    }

    #[test]
    fn the_one_leader_is_leader_and_the_others_follow() {
        let rows = [
            ('f', "10.0.0.1", "10.0.0.1"),
            ('l', "10.0.0.2", "10.0.0.2"),
            ('f', "10.0.0.3", "10.0.0.3"),
        ];
        assert_eq!(told("127.0.0.1,10.0.0.1", &rows), "follower");
        assert_eq!(told("127.0.0.1,10.0.0.2", &rows), "leader");
        assert_eq!(told("10.0.0.3", &rows), "follower");
    }

    #[test]
    fn a_follower_needs_no_leader() {
        assert_eq!(
            told(
                "10.0.0.1",
                &[('f', "10.0.0.1", "10.0.0.1"), ('-', "10.0.0.2", "10.0.0.2")]
            ),
            "follower"
        );
    }

    #[test]
    fn two_leaders_make_nobody_leader_or_follower() {
        let rows = [
            ('l', "10.0.0.1", "10.0.0.1"),
            ('l', "10.0.0.2", "10.0.0.2"),
            ('f', "10.0.0.3", "10.0.0.3"),
        ];
        for node in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            assert_eq!(told(node, &rows), "unknown split");
        }
    }

    #[test]
    fn an_address_matches_whole_and_as_an_address() {
        let rows = [
            ('f', "10.0.0.1", "10.0.0.1"),
            ('l', "10.0.0.10", "10.0.0.10"),
            ('f', "10.0.0.101", "10.0.0.101"),
        ];
        assert_eq!(told("10.0.0.1", &rows), "follower");
        assert_eq!(told("10.0.0.10", &rows), "leader");
        assert_eq!(told("0.0.0.10", &rows), "unknown not-listed");
        assert_eq!(told("fd00:0:0::1", &[('l', "cc1", "FD00::1")]), "leader");
        assert_eq!(told("::ffff:10.0.0.10", &rows), "leader");
        assert_eq!(told("10.0.0.10", &[('l', "cc1", "::ffff:10.0.0.10")]), "leader");
    }

    #[test]
    fn a_name_stands_for_the_node_where_its_row_has_no_address() {
        assert_eq!(told("10.0.0.1", &[('l', "10.0.0.1", "-")]), "leader");
        assert_eq!(told("10.0.0.1", &[('l', "10.0.0.1", "10.0.0.2")]), "unknown not-listed");
    }

    #[test]
    fn a_host_name_matches_the_name_without_case() {
        let rows = [
            ('l', "CC1.example.com", "10.0.0.1"),
            ('f', "cc10.example.com", "10.0.0.2"),
        ];
        assert_eq!(told("cc1.EXAMPLE.com", &rows), "leader");
        assert_eq!(told("cc1", &rows), "unknown not-listed");
        assert_eq!(told("cc1.example.com.au", &rows), "unknown not-listed");
    }

    #[test]
    fn the_rows_of_all_entries_are_this_nodes() {
        let rows = [
            ('l', "10.0.0.1", "10.0.0.1"),
            ('f', "10.0.0.2", "10.0.0.2"),
            ('f', "127.0.0.1", "127.0.0.1"),
        ];
        assert_eq!(told("127.0.0.1,10.9.9.9,10.0.0.2", &rows), "follower");
        assert_eq!(told("nowhere 10.0.0.1", &rows), "leader");
        for addresses in ["10.0.0.1,10.0.0.2", "10.0.0.2,10.0.0.1", "0.0.0.0,10.0.0.1"] {
            let here = ["10.0.0.1", "10.0.0.2"];
            assert_eq!(told_on(&here, addresses, &rows), "unknown rows-disagree", "{addresses}");
        }
    }

    #[test]
    fn a_wildcard_is_every_address_of_the_interfaces() {
        let rows = [('f', "10.0.0.1", "10.0.0.1"), ('l', "10.0.0.2", "10.0.0.2")];
        assert_eq!(told_on(&HERE, "0.0.0.0", &rows), "leader");
        assert_eq!(told_on(&HERE, "::", &rows), "leader");
        assert_eq!(
            told_on(&HERE, "0.0.0.0", &[('f', "cc1", "fd00::2"), ('l', "cc2", "fd00::3")]),
            "follower"
        );
        assert_eq!(
            told_on(&HERE, "0.0.0.0", &[('l', "10.0.0.1", "10.0.0.1")]),
            "unknown not-listed"
        );
    }

    #[test]
    fn a_name_counts_only_with_an_address_of_this_machine() {
        let rows = [('l', "cc1", "10.0.0.1"), ('f', "cc2", "10.0.0.2")];
        assert_eq!(told_on(&HERE, "127.0.0.1,cc2", &rows), "follower");
        assert_eq!(told_on(&HERE, "127.0.0.1,cc1", &rows), "unknown another-node");
        assert_eq!(told_on(&HERE, "cc1,cc2", &rows), "follower");
        assert_eq!(told("cc1", &rows), "leader", "--node is for NAT");
        for ip in ["127.0.1.1", "-"] {
            let rows = [('l', "cc1", ip), ('f', "cc2", "10.0.0.2")];
            assert_eq!(told_on(&HERE, "cc1", &rows), "leader", "{ip} is on any machine");
        }
    }

    #[test]
    fn an_address_that_every_node_has_names_no_node_that_the_list_names_otherwise() {
        let docker0 = ["10.0.0.2", "172.17.0.1"];
        let rows = [('l', "10.0.0.1", "172.17.0.1"), ('f', "10.0.0.3", "10.0.0.3")];
        assert_eq!(told_on(&docker0, "0.0.0.0", &rows), "unknown not-listed");
        assert_eq!(told_on(&["10.0.0.1", "172.17.0.1"], "0.0.0.0", &rows), "leader");
        // The list cannot tell more than this.
        let rows = [('l', "cc1", "172.17.0.1"), ('f', "cc3", "10.0.0.3")];
        assert_eq!(told_on(&docker0, "0.0.0.0", &rows), "leader");
    }

    #[test]
    fn rows_that_disagree_are_not_chosen_from() {
        assert_eq!(
            told("10.0.0.1", &[('l', "a", "10.0.0.1"), ('f', "b", "10.0.0.1")]),
            "unknown rows-disagree"
        );
        assert_eq!(
            told_on(&HERE, "0.0.0.0", &[('l', "a", "10.0.0.2"), ('-', "b", "fd00::2")]),
            "unknown rows-disagree"
        );
        assert_eq!(
            told("10.0.0.1", &[('f', "a", "10.0.0.1"), ('f', "b", "10.0.0.1")]),
            "follower"
        );
        assert_eq!(
            told("10.0.0.1", &[('l', "a", "10.0.0.1"), ('l', "b", "10.0.0.1")]),
            "unknown split"
        );
    }

    #[test]
    fn offline_and_undecided_are_unknown() {
        assert_eq!(
            told(
                "10.0.0.1",
                &[('-', "10.0.0.1", "10.0.0.1"), ('l', "10.0.0.2", "10.0.0.2")]
            ),
            "unknown offline"
        );
        assert_eq!(told("10.0.0.1", &[('?', "10.0.0.1", "10.0.0.1")]), "unknown no-role");
        assert_eq!(told("10.0.0.1", &[]), "unknown no-controllers");
    }
}
