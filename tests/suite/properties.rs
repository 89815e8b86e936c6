//! The verdict on lists that nobody has seen.
//!
//! Lists are generated from a model of controllers, printed as s9s prints them, and judged; the
//! verdict must be the model's. Then the printed lists are damaged. `CMONHACHK_CASES` (see `scale`) is
//! the number of cases for each property.

use std::net::IpAddr;

use cmonhachk::cluster::evaluate;
use cmonhachk::cluster::list;
use cmonhachk::cluster::node::{Node, bind_addresses};
use cmonhachk::s9s::printed::plain;
use cmonhachk::verdict::reason::Reason;
use cmonhachk::verdict::{Role, Verdict};
use proptest::prelude::*;

use crate::scale::amount;

#[derive(Clone, Debug)]
struct Controller {
    state: char,
    version: String,
    owner: String,
    group: String,
    name: String,
    ip: Option<IpAddr>,
    port: u16,
    comment: String,
}

/// A few addresses, so that a node is in a list by chance. Some begin with the text of another one.
const ADDRESSES: [&str; 6] = [
    "10.0.0.1",
    "10.0.0.10",
    "10.0.0.101",
    "110.0.0.1",
    "fd00::1",
    "fd00::10",
];

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(addresses(&ADDRESSES))
}

/// The addresses of a machine's interfaces.
fn interfaces() -> impl Strategy<Value = Vec<IpAddr>> {
    prop::sample::subsequence(addresses(&ADDRESSES), 2..=ADDRESSES.len())
}

/// A field that may hold blanks and everything except control characters, and does not end in a blank.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z]{1,8}",
        1 => Just("-".to_string()),
        1 => address().prop_map(|address| address.to_string()),
        1 => "l 10\\.0\\.0\\.10{0,2}",
        1 => "\\PC{0,12}[^\\pC\\pZ]",
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![3 => address().prop_map(|address| address.to_string()), 1 => Just("cc1.Example.com".to_string()), 2 => field()]
}

fn comment() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("Acting as leader.".to_string()),
        Just("l 10.0.0.1 10.0.0.10 10.0.0.101 9501".to_string()),
        Just("Total: 1 controller(s)".to_string()),
        Just("\u{1b}[31ml\u{1b}[0m".to_string()),
        Just(String::new()),
        "[^\n]{0,40}",
        // A comment of several lines, none like a leader's row: such a line is refused.
        "[^\n]{0,20}(\n([^l\n][^\n]{0,20})?){1,3}",
    ]
}

fn controller() -> impl Strategy<Value = Controller> {
    let state = prop_oneof![2 => Just('l'), 4 => Just('f'), 1 => Just('?'), 1 => Just('-')];
    (
        state,
        field(),
        field(),
        field(),
        name(),
        prop::option::of(address()),
        any::<u16>(),
        comment(),
    )
        .prop_map(|(state, version, owner, group, name, ip, port, comment)| Controller {
            state,
            version,
            owner,
            group,
            name,
            ip,
            port,
            comment,
        })
}

/// A list, sometimes a long one. In a long list, only two rows stay as generated: otherwise its verdict
/// would always be that several lead.
fn controllers() -> impl Strategy<Value = Vec<Controller>> {
    let index = any::<prop::sample::Index>;
    let long = (prop::collection::vec(controller(), 8..=1000), index(), index());
    let long = long.prop_map(|(mut controllers, one, other)| {
        let kept = [one.index(controllers.len()), other.index(controllers.len())];
        for (at, controller) in controllers.iter_mut().enumerate().filter(|(at, _)| !kept.contains(at)) {
            if controller.state == 'l' {
                controller.state = 'f';
            }
            let ip = IpAddr::from([172, 16, (at / 256) as u8, at as u8]);
            controller.ip = controller.ip.map(|_| ip);
            controller.name = ip.to_string();
        }
        controllers
    });
    prop_oneof![
        60 => prop::collection::vec(controller(), 0..8),
        1 => long,
    ]
}

/// Prints a list as s9s does: columns padded in bytes to their widest value.
fn print(controllers: &[Controller], coloured: bool) -> String {
    let mut table = vec![["S", "VERSION", "OWNER", "GROUP", "NAME", "IP", "PORT", "COMMENT"].map(str::to_string)];
    table.extend(controllers.iter().map(|controller| {
        let ip = controller.ip.map_or_else(|| "-".to_string(), |ip| ip.to_string());
        let Controller {
            state,
            version,
            owner,
            group,
            ..
        } = controller;
        let port = format!("{:>4}", controller.port);
        [
            state.to_string(),
            version.clone(),
            owner.clone(),
            group.clone(),
            controller.name.clone(),
            ip,
            port,
            controller.comment.clone(),
        ]
    }));
    let widths: Vec<usize> = (0..7)
        .map(|column| table.iter().map(|row| row[column].len()).max().unwrap())
        .collect();
    let mut text = String::new();
    for row in table.iter().filter(|_| !controllers.is_empty()) {
        for (value, width) in row.iter().zip(&widths) {
            let padding = " ".repeat(width - value.len());
            match coloured {
                true => text += &format!("\u{1b}[0;32m{value}{padding} \u{1b}[0;39m"),
                false => text += &format!("{value}{padding} "),
            }
        }
        text += &row[7];
        text += "\n";
    }
    text += &format!("Total: {} controller(s)\n", controllers.len());
    text + if coloured { "\u{1b}[?25h" } else { "" }
}

/// The entries of a node, in RPC_BIND_ADDRESSES and in the model.
fn identity() -> impl Strategy<Value = Vec<String>> {
    let entry = prop_oneof![
        4 => address().prop_map(|address| address.to_string()),
        1 => Just("127.0.0.1".to_string()),
        1 => Just("0.0.0.0".to_string()),
        1 => Just("CC1.example.COM".to_string()),
        1 => Just("elsewhere".to_string()),
    ];
    prop::collection::vec(entry, 1..4).prop_filter("an entry besides loopback", |entries| {
        entries.iter().any(|entry| entry != "127.0.0.1")
    })
}

fn is_row_of(entry: &str, here: &[IpAddr], controller: &Controller) -> bool {
    let Ok(address) = entry.parse::<IpAddr>() else {
        return controller.name.eq_ignore_ascii_case(entry) && !has_address_elsewhere(here, controller);
    };
    let name = controller.name.parse::<IpAddr>().ok();
    let theirs = controller.ip.or(name);
    let is_theirs = |theirs: IpAddr| match address.is_unspecified() {
        true => here.contains(&theirs) && name.is_none_or(|name| here.contains(&name)),
        false => theirs == address && here.contains(&theirs),
    };
    theirs.is_some_and(is_theirs)
}

fn has_address_elsewhere(here: &[IpAddr], controller: &Controller) -> bool {
    let name = controller.name.parse::<IpAddr>().ok();
    controller.ip.or(name).is_some_and(|address| !here.contains(&address))
}

/// The verdict as the manual page has it: an entry that is no address of this machine, `here`, names nobody.
fn model(entries: &[String], here: &[IpAddr], controllers: &[Controller]) -> Verdict {
    let unknown = Verdict::Unknown;
    let is_elsewhere = |entry: &String| match entry.parse::<IpAddr>() {
        Ok(address) => !address.is_unspecified() && !here.contains(&address),
        Err(_) => false,
    };
    if entries.iter().all(is_elsewhere) {
        return unknown(Reason::AnotherNode);
    }
    if controllers.is_empty() {
        return unknown(Reason::NoControllers);
    }
    let is_ours = |row: &&Controller| entries.iter().any(|entry| is_row_of(entry, here, row));
    let ours: Vec<_> = controllers.iter().filter(is_ours).collect();
    if ours.is_empty() {
        let is_copied = |row: &Controller| {
            let mut names = entries.iter().filter(|entry| entry.parse::<IpAddr>().is_err());
            names.any(|name| row.name.eq_ignore_ascii_case(name)) && has_address_elsewhere(here, row)
        };
        return unknown(match controllers.iter().any(is_copied) {
            true => Reason::AnotherNode,
            false => Reason::NotListed,
        });
    }
    let leaders = controllers.iter().filter(|row| row.state == 'l').count();
    match ours[0].state {
        state if ours.iter().any(|row| row.state != state) => unknown(Reason::RowsDisagree),
        _ if leaders > 1 => unknown(Reason::SeveralLeaders),
        'l' => Verdict::Known(Role::Leader),
        'f' => Verdict::Known(Role::Follower),
        '-' => unknown(Reason::Offline),
        _ => unknown(Reason::NoRole),
    }
}

/// What the program makes of it, on a machine with the addresses `here`.
fn told(entries: &[String], here: &[IpAddr], printed: &[u8]) -> Verdict {
    let entries = bind_addresses(format!("RPC_BIND_ADDRESSES='{}'", entries.join(",")).as_bytes()).unwrap();
    let node = match Node::of_this_machine(&entries, here.to_vec()) {
        Ok(node) => node,
        Err(fault) => return Verdict::Unknown(fault.reason),
    };
    let text = plain(printed);
    match list::parse(&text) {
        Ok(rows) => Verdict::of(&evaluate(&node, &rows)),
        Err(_) => Verdict::Unknown(Reason::ListUnreadable),
    }
}

#[derive(Clone, Debug)]
enum Damage {
    Cut(prop::sample::Index),
    DropLine(prop::sample::Index),
    DoubleLine(prop::sample::Index),
    SwapLines(prop::sample::Index, prop::sample::Index),
    Flip(prop::sample::Index, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        index().prop_map(Damage::Cut),
        index().prop_map(Damage::DropLine),
        index().prop_map(Damage::DoubleLine),
        (index(), index()).prop_map(|(one, other)| Damage::SwapLines(one, other)),
        (index(), 1..=u8::MAX).prop_map(|(at, bits)| Damage::Flip(at, bits)),
    ]
}

fn apply(damage: &Damage, text: &mut Vec<u8>) {
    let mut lines: Vec<Vec<u8>> = text
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    match damage {
        _ if text.is_empty() => return,
        Damage::Cut(at) => return text.truncate(at.index(text.len())),
        Damage::Flip(at, bits) => {
            let at = at.index(text.len());
            return text[at] ^= bits;
        }
        Damage::DropLine(at) => drop(lines.remove(at.index(lines.len()))),
        Damage::DoubleLine(at) => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at].clone());
        }
        Damage::SwapLines(one, other) => {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
        }
    }
    *text = lines.concat();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: amount("CMONHACHK_CASES", 2000, 200_000) as u32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_on_any_list_is_the_models(
        entries in identity(),
        here in interfaces(),
        controllers in controllers(),
        coloured: bool,
    ) {
        let printed = print(&controllers, coloured);
        let told = told(&entries, &here, printed.as_bytes());
        prop_assert_eq!(told, model(&entries, &here, &controllers), "{}", printed);
    }

    #[test]
    fn a_damaged_list_makes_a_leader_only_of_the_one_whose_row_still_says_so(
        entries in identity(),
        here in interfaces(),
        controllers in controllers(),
        coloured: bool,
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let mut text = print(&controllers, coloured).into_bytes();
        for damage in &damages {
            apply(damage, &mut text);
        }
        if told(&entries, &here, &text) == Verdict::Known(Role::Leader) {
            // Checked without the parser: exactly one line starts like a leader's, and it has one of
            // this node's names or addresses.
            let plain = plain(&text);
            let leaders: Vec<String> = plain
                .split(|byte| *byte == b'\n')
                .filter(|line| line.starts_with(b"l "))
                .map(|line| String::from_utf8_lossy(line).to_lowercase())
                .collect();
            prop_assert_eq!(leaders.len(), 1);
            let canonical = |word: &str| word.parse::<IpAddr>().map_or(word.to_string(), |address| address.to_canonical().to_string());
            let words: Vec<String> = leaders[0].split_whitespace().map(canonical).collect();
            let is_named = |entry: &String| match entry.parse::<IpAddr>() {
                Ok(address) => here.iter().any(|ours| {
                    (*ours == address || address.is_unspecified()) && words.contains(&ours.to_string())
                }),
                Err(_) => words.contains(&entry.to_lowercase()),
            };
            prop_assert!(entries.iter().any(is_named), "{:?}", leaders);
        }
    }

    #[test]
    fn a_cut_list_is_never_believed(
        entries in identity(),
        controllers in prop::collection::vec(controller(), 0..6),
        at: prop::sample::Index,
    ) {
        let printed = print(&controllers, false);
        // The last newline may be missing; nothing else may.
        let cut = at.index(printed.len() - 1);
        let told = told(&entries, &addresses(&ADDRESSES), &printed.as_bytes()[..cut]);
        prop_assert_eq!(told, Verdict::Unknown(Reason::ListUnreadable));
    }
}
