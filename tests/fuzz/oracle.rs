//! What must hold for everything that cmonhachk reads, whatever its bytes.
//!
//! One function for each thing that is read. It panics if what was read is wrong: it compares each
//! reader with a second one, which is written here as simply as possible. The fuzz targets search for
//! bytes that cause a panic; the test suite replays the bytes that were kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str;
use std::time::Duration;

use cmonhachk::cache::backoff::BackOff;
use cmonhachk::cache::entry::Entry;
use cmonhachk::cluster::evaluate;
use cmonhachk::cluster::list::{self, State};
use cmonhachk::cluster::node::{BindAddress, Node, bind_addresses, join};
use cmonhachk::net::request::{Request, is_complete, is_head, request as asked};
use cmonhachk::os::clock::Instant;
use cmonhachk::os::text::clean;
use cmonhachk::s9s::printed::plain;
use cmonhachk::s9s::process::UnkillableProcess;
use cmonhachk::verdict::reason::{Fault, Reason};
use cmonhachk::verdict::{Role, Verdict};

/// The addresses of this machine.
const INTERFACES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 12)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
];

/// The controller list and the verdict on it. The input's first line holds the entries of
/// `RPC_BIND_ADDRESSES`; what s9s printed follows.
pub fn list(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let words = words(parts.next().unwrap_or_default());
    let entries: Vec<BindAddress> = words.filter_map(bind_address).collect();
    let printed = parts.next().unwrap_or_default();
    let text = uncoloured(printed);
    assert_eq!(plain(printed), text, "colour");
    judged(&entries, &text);
    // Few mutations of a list also correct its count, and with a wrong count no row is read.
    judged(&entries, &counted(&text));
}

/// An accepted list is complete, and the verdict is what its lines say.
fn judged(entries: &[BindAddress], text: &[u8]) {
    let rows = match list::parse(text) {
        Ok(rows) => rows,
        Err(error) => return assert!(!format!("{error:#}").is_empty()),
    };
    let lines = lines(text);
    let (count, lines) = lines.split_last().expect("a count");
    let row_lines = lines.get(1..).unwrap_or_default();
    // The other lines belong to the comments before them.
    let is_row = |line: &&&[u8]| Seen::new(lines[0], line).is_some();
    let row_lines: Vec<&[u8]> = row_lines.iter().filter(is_row).copied().collect();
    let led = lines.iter().filter(|line| line.starts_with(b"l ")).count();
    assert_eq!(
        led,
        row_lines.iter().filter(|line| line[0] == b'l').count(),
        "a leader is overlooked"
    );
    assert!(is_count(count, row_lines.len()), "the count is another");
    let seen: Vec<Seen> = row_lines.iter().filter_map(|line| Seen::new(lines[0], line)).collect();
    assert_eq!(rows.len(), seen.len(), "rows were left out or made up");
    for ((row, seen), line) in rows.iter().zip(&seen).zip(&row_lines) {
        let state = match row.state {
            State::Leader => b'l',
            State::Follower => b'f',
            State::NoRole => b'?',
            State::Offline => b'-',
        };
        assert_eq!((state, row.name, row.ip), (seen.state, seen.name, seen.ip));
        assert_eq!(row.line, *line);
    }

    let given = Node::as_given(entries.to_vec(), INTERFACES.to_vec());
    told_as_seen(&given, &rows, &row_lines, role(&seen, |row| row.is_given_by(entries)));
    if let Ok(here) = Node::of_this_machine(entries, INTERFACES.to_vec()) {
        told_as_seen(&here, &rows, &row_lines, role(&seen, |row| row.is_here_by(entries)));
    }
}

/// The outcome is the role that was seen, and its words can be shown.
fn told_as_seen(node: &Node, rows: &[list::Row], row_lines: &[&[u8]], role: Option<u8>) {
    let outcome = evaluate(node, rows);
    match Verdict::of(&outcome) {
        Verdict::Known(Role::Leader) => assert_eq!(role, Some(b'l'), "no leader"),
        Verdict::Known(Role::Follower) => assert_eq!(role, Some(b'f'), "no follower"),
        Verdict::Unknown(_) => assert_eq!(role, None, "a role is not told"),
    }
    let shown = match outcome {
        Ok((_, row)) => {
            let mut printed = row_lines.iter().map(|line| String::from_utf8_lossy(line));
            assert!(printed.any(|line| line == row), "no row");
            row
        }
        Err(fault) => format!("{:#}", fault.detail),
    };
    let cleaned = clean(&shown, 100);
    assert!(cleaned.len() <= 100 && !cleaned.contains(char::is_control));
}

/// A row, cut at the positions of the header's titles.
struct Seen<'a> {
    state: u8,
    name: &'a [u8],
    ip: &'a [u8],
}

impl Seen<'_> {
    /// None where the line does not fit the header.
    fn new<'a>(header: &[u8], line: &'a [u8]) -> Option<Seen<'a>> {
        let title = |header: &[u8], title: &[u8]| {
            let at = (0..header.len()).rfind(|at| header[*at..].starts_with(title));
            at.expect("a title") + " ".len()
        };
        assert!(header.starts_with(b"S "));
        let ip = title(header, b" IP ");
        let name = title(&header[..ip], b" NAME ");
        let mut words = line.get(ip..)?.split(|byte| *byte == b' ');
        let address = words.next()?;
        let port = words.find(|word| !word.is_empty())?;
        let is_port = port
            .iter()
            .enumerate()
            .all(|(at, byte)| byte.is_ascii_digit() || (at == 0 && *byte == b'-'));
        let fits = b"lf?-".contains(&line[0]) && [1, name - 1, ip - 1].iter().all(|blank| line[*blank] == b' ');
        let end = (name..ip).rfind(|at| line[*at] != b' ').map_or(name, |at| at + 1);
        (fits && is_port && !address.is_empty()).then(|| Seen {
            state: line[0],
            name: &line[name..end],
            ip: address,
        })
    }

    /// Whether the row is that of a node whose `--node` has these entries.
    fn is_given_by(&self, entries: &[BindAddress]) -> bool {
        entries.iter().any(|entry| match (entry, self.address()) {
            (BindAddress::Address(ours), Some(theirs)) => *ours == theirs,
            (BindAddress::Wildcard, Some(theirs)) => INTERFACES.contains(&theirs),
            (BindAddress::Name(ours), _) => ours.as_bytes().eq_ignore_ascii_case(self.name),
            _ => false,
        })
    }

    /// The same for the defaults file, on a machine with the addresses of [`INTERFACES`].
    fn is_here_by(&self, entries: &[BindAddress]) -> bool {
        let is_there = |address: Option<IpAddr>| {
            address.is_some_and(|address| !INTERFACES.contains(&address) && !address.is_loopback())
        };
        entries.iter().any(|entry| {
            let is_elsewhere = match entry {
                BindAddress::Wildcard => is_there(address(self.name)),
                _ => is_there(self.address()),
            };
            self.is_given_by(std::slice::from_ref(entry)) && !is_elsewhere
        })
    }

    fn address(&self) -> Option<IpAddr> {
        address(if self.ip == b"-" { self.name } else { self.ip })
    }
}

/// The role that the node's rows give it, `l` or `f`; none if they differ or several rows have `l`.
fn role(rows: &[Seen], is_ours: impl Fn(&Seen) -> bool) -> Option<u8> {
    let ours = rows.iter().filter(|row| is_ours(row));
    let states: Vec<u8> = ours.map(|row| row.state).collect();
    let leaders = rows.iter().filter(|row| row.state == b'l').count();
    match *states.first()? {
        state if states.iter().any(|other| *other != state) => None,
        b'l' if leaders == 1 => Some(b'l'),
        b'f' if leaders <= 1 => Some(b'f'),
        _ => None,
    }
}

/// The lines, without empty ones at the end.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    let mut text = text;
    while let Some(less) = text.strip_suffix(b"\n") {
        text = less;
    }
    text.split(|byte| *byte == b'\n').collect()
}

/// The text with a new last line: it counts the lines after the first one that may be rows.
fn counted(text: &[u8]) -> Vec<u8> {
    let lines = lines(text);
    let (_, rest) = lines.split_last().expect("split gives one line at least");
    let rows = rest
        .iter()
        .skip(1)
        .filter(|line| matches!(line, [b'l' | b'f' | b'?' | b'-', b' ', ..]));
    let count = format!("Total: {} controller(s)", rows.count());
    let rest = rest.iter().flat_map(|line| [line, &b"\n"[..]]);
    rest.chain([count.as_bytes()]).collect::<Vec<_>>().concat()
}

fn is_count(line: &[u8], count: usize) -> bool {
    let line = String::from_utf8_lossy(line).into_owned();
    let zeros = line.strip_prefix("Total: ").map(|rest| rest.trim_start_matches('0'));
    let digits = if count == 0 { String::new() } else { count.to_string() };
    zeros == Some(&format!("{digits} controller(s)"))
}

/// Without `ESC [`, its parameters (`0` to `?`), intermediates (blank to `/`) and final (`@` to `~`).
fn uncoloured(printed: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut rest = printed;
    while let [byte, after @ ..] = rest {
        let end = after.strip_prefix(b"[").filter(|_| *byte == 0x1b).and_then(|mut end| {
            for (low, high) in [(b'0', b'?'), (b' ', b'/')] {
                while let [byte, after @ ..] = end
                    && (low..=high).contains(byte)
                {
                    end = after;
                }
            }
            let (last, end) = end.split_first()?;
            (b'@'..=b'~').contains(last).then_some(end)
        });
        if end.is_none() {
            text.push(*byte);
        }
        rest = end.unwrap_or(after);
    }
    text
}

/// The words of a list of entries.
fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let words = value.split(|byte| b", \t\n\r\x0c".contains(byte));
    words.filter(|word| !word.is_empty())
}

/// The address that a text is, an IPv4-mapped one as IPv4.
fn address(text: &[u8]) -> Option<IpAddr> {
    match str::from_utf8(text).ok()?.parse().ok()? {
        IpAddr::V6(v6) => Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)),
        v4 => Some(v4),
    }
}

/// The entry that a word is; None if it is neither an address nor a host name.
fn bind_address(word: &[u8]) -> Option<BindAddress> {
    const LOCAL: &str = " localhost localhost.localdomain ip6-localhost ip6-loopback ";
    match address(word) {
        Some(address) if address == Ipv4Addr::UNSPECIFIED || address == Ipv6Addr::UNSPECIFIED => {
            return Some(BindAddress::Wildcard);
        }
        Some(address) if address.is_loopback() => return Some(BindAddress::Loopback(address)),
        Some(address) => return Some(BindAddress::Address(address)),
        None => {}
    }
    let name = str::from_utf8(word).ok()?;
    if LOCAL.contains(&format!(" {} ", name.to_lowercase())) {
        return Some(BindAddress::Loopback(Ipv4Addr::LOCALHOST.into()));
    }
    let labels: Vec<&str> = name.strip_suffix('.').unwrap_or(name).split('.').collect();
    let is_good = |label: &&str| {
        let bytes = label.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        bytes.iter().all(|byte| is_in_a_name(*byte) || *byte == b'-')
            && !ends.contains(&None)
            && !ends.contains(&Some(&b'-'))
    };
    let is_number = labels.last()?.chars().all(|character| character.is_ascii_digit());
    (labels.iter().all(is_good) && !is_number).then(|| BindAddress::Name(name.to_string()))
}

/// The defaults file: all its lines are plain, and its entries are those of the last assignment.
pub fn defaults(text: &[u8]) {
    let reason = |fault: Fault| {
        assert!(!format!("{:#}", fault.detail).is_empty());
        fault.reason
    };
    let read = bind_addresses(text).map_err(reason);
    assert_eq!(read, assigned(text));
    let Ok(entries) = read else { return };
    assert!(!join(&entries).is_empty());
    let can_be_here = |entry: &&BindAddress| match entry {
        BindAddress::Address(address) => INTERFACES.contains(address),
        other => !matches!(other, BindAddress::Loopback(_)),
    };
    let here: Vec<BindAddress> = entries.iter().filter(can_be_here).cloned().collect();
    let expected = match here.is_empty() {
        true => Err(Reason::AnotherNode),
        false => Ok(join(&here)),
    };
    let node = Node::of_this_machine(&entries, INTERFACES.to_vec());
    assert_eq!(node.map(|node| node.names()).map_err(reason), expected);
}

/// What the lines assign to `RPC_BIND_ADDRESSES`.
fn assigned(text: &[u8]) -> Result<Vec<BindAddress>, Reason> {
    let mut last = Some(Vec::new());
    for line in text.split(|byte| *byte == b'\n') {
        let assignment = plain_line(line).ok_or(Reason::DefaultsUnclear)?;
        if let Some((b"RPC_BIND_ADDRESSES", value)) = assignment {
            last = value;
        }
    }
    let value = last.ok_or(Reason::DefaultsUnclear)?;
    let entries: Option<Vec<BindAddress>> = words(&value).map(bind_address).collect();
    let entries = entries.ok_or(Reason::DefaultsUnclear)?;
    match entries.iter().all(|entry| matches!(entry, BindAddress::Loopback(_))) {
        true if entries.is_empty() => Err(Reason::NoBindAddresses),
        true => Err(Reason::OnlyLoopback),
        false => Ok(entries),
    }
}

/// What bash or dash lets nobody assign, or takes for a number.
const SPECIAL: &[&str] = &[
    "UID",
    "EUID",
    "PPID",
    "OPTIND",
    "RANDOM",
    "SRANDOM",
    "HISTCMD",
    "SHELLOPTS",
    "BASHOPTS",
    "BASH_VERSINFO",
];

/// A name, and what is assigned to it: None if that has a variable.
type Assignment<'a> = (&'a [u8], Option<Vec<u8>>);

/// What a line assigns, if anything; None for a line that only a shell can read.
fn plain_line(line: &[u8]) -> Option<Option<Assignment<'_>>> {
    let mut rest = line;
    take(&mut rest, is_blank);
    if line.contains(&0) {
        return None;
    } else if matches!(rest, b"" | b"\r" | [b'#', ..]) {
        return Some(None);
    }
    let mut name = take(&mut rest, is_in_a_name);
    let exports = name == b"export" && !take(&mut rest, is_blank).is_empty();
    if exports {
        name = take(&mut rest, is_in_a_name);
    }
    let mut assignment = None;
    if let Some(after) = rest.strip_prefix(b"=") {
        rest = after;
        if SPECIAL.contains(&str::from_utf8(name).ok()?) {
            return None;
        }
        assignment = Some((name, value(&mut rest)?));
        rest = rest.strip_prefix(b"\r").unwrap_or(rest);
    }
    let is_apart = !take(&mut rest, is_blank).is_empty();
    let ends = rest.is_empty() || (is_apart && rest[0] == b'#');
    (ends && is_name(name) && (exports || assignment.is_some())).then_some(assignment)
}

/// Takes a value off the start of a line.
fn value(rest: &mut &[u8]) -> Option<Option<Vec<u8>>> {
    let mut plain = Vec::new();
    let mut has_variable = false;
    loop {
        plain.extend(take(rest, |byte| {
            byte.is_ascii_alphanumeric() || b"_.,:/@%+=#^-".contains(&byte)
        }));
        let Some((quote @ (b'"' | b'\''), inside)) = rest.split_first() else {
            return Some((!has_variable).then_some(plain));
        };
        *rest = inside;
        let quoted = take(rest, |byte| byte != *quote);
        *rest = rest.strip_prefix(&[*quote])?;
        plain.extend(quoted);
        if *quote == b'"' {
            let mut variables = quoted.split(|byte| *byte == b'$').skip(1).peekable();
            has_variable |= variables.peek().is_some();
            if !variables.all(starts_with_a_variable) || quoted.iter().any(|byte| b"`\\".contains(byte)) {
                return None;
            }
        }
    }
}

/// Whether the text after a `$` starts with `NAME` or `{NAME}`.
fn starts_with_a_variable(text: &[u8]) -> bool {
    let mut rest = text.strip_prefix(b"{").unwrap_or(text);
    let name = take(&mut rest, is_in_a_name);
    is_name(name) && (text[0] != b'{' || rest.starts_with(b"}"))
}

fn is_name(name: &[u8]) -> bool {
    name.first().is_some_and(|byte| !byte.is_ascii_digit())
}

fn is_in_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Takes the bytes that fit off the start of a text.
fn take<'a>(rest: &mut &'a [u8], fits: impl Fn(u8) -> bool) -> &'a [u8] {
    let end = rest.iter().position(|byte| !fits(*byte)).unwrap_or(rest.len());
    let (taken, after) = rest.split_at(end);
    *rest = after;
    taken
}

/// The request: once it is complete, it stays complete and asks for the same.
pub fn request(received: &[u8]) {
    let head = first_word(received) == Some(b"HEAD");
    assert_eq!(is_head(received), head);
    assert_eq!(asked(received), question(received));
    let mut complete = false;
    let (mut started, mut is_first) = (false, true);
    let mut line = Vec::new();
    for (at, byte) in received.iter().enumerate() {
        if *byte == b'\n' {
            let line_is = |text: &[u8]| line == text || (line.strip_suffix(b"\r") == Some(text));
            complete |= started && (line_is(b"") || (is_first && line_is(b"agent")));
            is_first &= !started;
            line.clear();
        } else {
            started |= *byte != b'\r';
            if started {
                line.push(*byte);
            }
        }
        let so_far = &received[..=at];
        assert_eq!(is_complete(so_far), complete, "after {at}");
        if complete {
            assert_eq!(is_head(so_far), head, "what comes after the head changes the answer");
            assert_eq!(
                asked(so_far),
                asked(received),
                "what comes after the head changes the question"
            );
        }
    }
    assert!(!is_complete(b""));
}

/// What the first line that is not empty asks for: `agent` alone, or a path before any query, metrics
/// only by GET and HEAD of HTTP/1.1.
fn question(received: &[u8]) -> Request {
    let text: String = received.iter().map(|byte| char::from(*byte)).collect();
    let text = text.trim_start_matches(['\r', '\n']);
    let line = text.split_once('\n').map_or(text, |(line, _)| line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let rest = line.split_once(' ').map(|(_, rest)| rest);
    let has_path = |path| {
        let after = rest.and_then(|rest| rest.strip_prefix(path));
        after.is_some_and(|after| after.is_empty() || after.starts_with([' ', '?']))
    };
    // What stands after the path, up to a blank.
    let version = rest.and_then(|rest| rest.split(' ').nth(1));
    let is_read = line.starts_with("GET ") || line.starts_with("HEAD ");
    if line == "agent" {
        Request::Agent
    } else if has_path("/health") {
        Request::Health
    } else if has_path("/metrics") && is_read && version == Some("HTTP/1.1") {
        Request::Metrics
    } else {
        Request::Role
    }
}

/// What stands before the first blank of the first line that is not empty.
fn first_word(received: &[u8]) -> Option<&[u8]> {
    let mut lines = received.split(|byte| b"\r\n".contains(byte));
    let line = lines.find(|line| !line.is_empty())?;
    let end = line.iter().position(|byte| *byte == b' ')?;
    Some(&line[..end])
}

/// The cache entry: it is read as its words say, and written again as it was.
pub fn entry(input: &[u8]) {
    let Ok(line) = str::from_utf8(input) else { return };
    let read = Entry::decode(line);
    if let Some(entry) = &read {
        assert_eq!(entry.encode(), line, "not what is written");
    }
    assert_eq!(read, written(line));
}

/// The entry that a line says, if every number in it has its one spelling.
fn written(line: &str) -> Option<Entry> {
    let words: Vec<&str> = line.split(' ').collect();
    let ["cmonhachk7", key, from, took, spans, process, verdict @ ..] = words.as_slice() else {
        return None;
    };
    let took = match *took {
        "-" => None,
        millis => Some(Duration::from_millis(decimal(millis)?)),
    };
    let [span, refused] = parts(spans)?;
    let [pid, started] = parts(process)?;
    let pid: i32 = decimal(pid)?;
    let started = decimal(started)?;
    let unkillable = match (pid, started) {
        (0, 0) => None,
        (0, _) => return None,
        _ => Some(UnkillableProcess { pid, started }),
    };
    let verdict = match verdict {
        ["leader"] => Verdict::Known(Role::Leader),
        ["follower"] => Verdict::Known(Role::Follower),
        ["unknown", code] => Verdict::Unknown(Reason::ALL.into_iter().find(|reason| reason.code() == *code)?),
        _ => return None,
    };
    Some(Entry {
        key: hexadecimal(key, 16)?,
        from: Instant(Duration::from_micros(decimal(from)?)),
        took,
        back_off: BackOff {
            span: Duration::from_millis(decimal(span)?),
            refused: Duration::from_millis(decimal(refused)?),
            unkillable,
        },
        verdict,
    })
}

/// The parts of a word between its slashes, if it has so many.
fn parts<const N: usize>(word: &str) -> Option<[&str; N]> {
    word.split('/').collect::<Vec<_>>().try_into().ok()
}

/// A number as a program prints it.
fn decimal<N: str::FromStr + ToString>(digits: &str) -> Option<N> {
    digits.parse().ok().filter(|number: &N| number.to_string() == digits)
}

/// A number of so many digits.
fn hexadecimal(digits: &str, length: usize) -> Option<u64> {
    let are_digits = digits.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
    let number = u64::from_str_radix(digits, 16).ok()?;
    (are_digits && digits.len() == length).then_some(number)
}
