//! What must hold for everything that cmonhachk reads, whatever its bytes.
//!
//! One function for each thing that is read. It panics if what was read is wrong: it compares each
//! reader with a second one, which is written here as simply as possible. The fuzz targets search for
//! bytes that cause a panic; the test suite replays the bytes that were kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cmonhachk::defaults::{Entry, bind_addresses, join};
use cmonhachk::entry::{Entry as CacheEntry, Hold};
use cmonhachk::evaluation::evaluate;
use cmonhachk::list::{self, State};
use cmonhachk::log::clean;
use cmonhachk::reason::Reason;
use cmonhachk::request::{Request, is_complete, is_head, request as asked};
use cmonhachk::verdict::{Verdict, verdict};

/// What a wildcard stands for.
const INTERFACES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 12)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
];

/// The controller list and the verdict on it. The input's first line holds the entries of
/// `RPC_BIND_ADDRESSES`; what s9s printed follows.
pub fn list(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let entries = entries(parts.next().unwrap_or_default());
    let printed = parts.next().unwrap_or_default();
    let text = uncoloured(printed);
    assert_eq!(list::plain(printed), text, "colour");
    judged(&entries, &text);
    // Few mutations of a list also correct its count, and with a wrong count no row is read.
    judged(&entries, &counted(&text));
}

/// An accepted list is complete, and the verdict is what its lines say.
fn judged(entries: &[Entry], text: &[u8]) {
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

    let outcome = evaluate(entries, &INTERFACES, &rows);
    match verdict(&outcome) {
        Verdict::Leader => assert_eq!(role(entries, &seen), Some(b'l'), "no leader"),
        Verdict::Follower => assert_eq!(role(entries, &seen), Some(b'f'), "no follower"),
        Verdict::Unknown(_) => assert_eq!(role(entries, &seen), None, "a role is not told"),
    }
    let shown = match outcome {
        Ok(standing) => {
            let mut printed = row_lines.iter().map(|line| String::from_utf8_lossy(line));
            assert!(printed.any(|line| line == standing.row), "no row");
            standing.row
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

    fn is_of(&self, entry: &Entry) -> bool {
        let field = if self.ip == b"-" { self.name } else { self.ip };
        match (entry, bind_entry(field)) {
            (Entry::Address(ours), Entry::Address(theirs)) => *ours == theirs,
            (Entry::Wildcard, Entry::Address(theirs)) => INTERFACES.contains(&theirs),
            (Entry::Name(ours), _) => ours.eq_ignore_ascii_case(self.name),
            _ => false,
        }
    }

    /// Whether the row has an address of this machine.
    fn is_here(&self) -> bool {
        self.is_of(&Entry::Wildcard)
    }
}

/// The role that the rows give the node, `l` or `f`; none if its rows differ, several rows have `l`, or only
/// other rows have this machine's addresses.
fn role(entries: &[Entry], rows: &[Seen]) -> Option<u8> {
    let is_ours = |row: &&Seen| entries.iter().any(|entry| row.is_of(entry));
    if rows.iter().any(Seen::is_here) && !rows.iter().filter(is_ours).any(Seen::is_here) {
        return None;
    }
    let states: Vec<u8> = rows.iter().filter(is_ours).map(|row| row.state).collect();
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

/// The words of a list of entries, each parsed.
fn entries(value: &[u8]) -> Vec<Entry> {
    let words = value.split(|byte| b", \t\n\r\x0c".contains(byte));
    words.filter(|word| !word.is_empty()).map(bind_entry).collect()
}

fn bind_entry(word: &[u8]) -> Entry {
    let address = String::from_utf8(word.to_vec())
        .ok()
        .and_then(|word| word.parse::<IpAddr>().ok());
    let v4 = match address {
        Some(IpAddr::V6(v6)) => v6.to_ipv4_mapped().map(IpAddr::V4),
        _ => None,
    };
    match v4.or(address) {
        None if [
            "localhost",
            "localhost.localdomain",
            "localhost4",
            "localhost4.localdomain4",
            "localhost6",
            "localhost6.localdomain6",
            "ip6-localhost",
            "ip6-loopback",
        ]
        .contains(&String::from_utf8_lossy(word).to_ascii_lowercase().as_str()) =>
        {
            Entry::Loopback(Ipv4Addr::LOCALHOST.into())
        }
        None => Entry::Name(word.to_vec()),
        Some(address) if address == Ipv4Addr::UNSPECIFIED || address == Ipv6Addr::UNSPECIFIED => Entry::Wildcard,
        Some(address) if address.is_loopback() => Entry::Loopback(address),
        Some(address) => Entry::Address(address),
    }
}

/// The defaults file: its entries are those of the last assignment, at least one.
pub fn defaults(text: &[u8]) {
    let read = bind_addresses(text).map_err(|fault| {
        assert!(!format!("{:#}", fault.detail).is_empty());
        fault.reason
    });
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let assigned = text.rsplit(|byte| *byte == b'\n').find_map(assigned);
    if read == Err(Reason::DefaultsUnclear) {
        return assert!(may_be_unclear(text), "nothing but plain assignments");
    }
    let Some(rest) = assigned else {
        return assert_eq!(read, Err(Reason::NoBindAddresses), "nothing is assigned");
    };
    if let Some(value) = simple_value(rest) {
        let entries = entries(value);
        let expected = if entries.is_empty() {
            Err(Reason::NoBindAddresses)
        } else if entries.iter().all(|entry| matches!(entry, Entry::Loopback(_))) {
            Err(Reason::OnlyLoopback)
        } else {
            Ok(entries)
        };
        assert_eq!(read, expected, "{:?}", String::from_utf8_lossy(value));
    }
    match read {
        Ok(entries) => {
            let other = |entry: &Entry| !matches!(entry, Entry::Loopback(_));
            assert!(entries.iter().any(other), "nothing tells this node from another");
            assert!(!join(&entries).is_empty());
            for read in &entries {
                match read {
                    Entry::Name(name) => {
                        assert_eq!(self::entries(name), [Entry::Name(name.clone())], "no single name");
                        assert!(is_within(name, rest), "made up");
                    }
                    Entry::Address(address) | Entry::Loopback(address) => {
                        assert_eq!(bind_entry(address.to_string().as_bytes()), *read);
                    }
                    Entry::Wildcard => {}
                }
            }
        }
        Err(reason) => assert!(matches!(reason, Reason::NoBindAddresses | Reason::OnlyLoopback)),
    }
}

/// What a line assigns to `RPC_BIND_ADDRESSES`, if it does.
fn assigned(line: &[u8]) -> Option<&[u8]> {
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let indent = |line: &[u8]| line.iter().take_while(|byte| blank(byte)).count();
    let line = &line[indent(line)..];
    let line = match line.strip_prefix(b"export") {
        Some(rest) if rest.first().is_some_and(blank) => &rest[indent(rest)..],
        _ => line,
    };
    line.strip_prefix(b"RPC_BIND_ADDRESSES=")
}

/// Whether the text has anything for a shell to act on, besides plain assignments and one-line comments.
fn may_be_unclear(text: &[u8]) -> bool {
    let has = |text: &[u8], part: &str| text.windows(part.len()).any(|other| other == part.as_bytes());
    let words = [
        "if", "while", "until", "for", "select", "case", "{", "exit", "return", "exec", ".", "source", "eval",
    ];
    // The line has the name, and not only in an assignment.
    let names = |line: &[u8]| has(assigned(line).unwrap_or(line), "RPC_BIND_ADDRESSES");
    text.iter().any(|byte| b"\"'`\\$;&|<>()/".contains(byte))
        || words.iter().any(|word| has(text, word))
        || text.split(|byte| *byte == b'\n').any(names)
}

/// The value, if no shell could see another: it is in one pair of quotes, or has nothing special.
fn simple_value(rest: &[u8]) -> Option<&[u8]> {
    let plain = |value: &[u8]| !value.iter().any(|byte| b"\"'\\;&|#".contains(byte));
    let quoted = match rest.trim_ascii() {
        [b'"', value @ .., b'"'] | [b'\'', value @ .., b'\''] => value,
        _ => rest,
    };
    plain(quoted).then_some(quoted)
}

/// Whether all bytes of `part` stand in `whole`, in order.
fn is_within(part: &[u8], whole: &[u8]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|byte| whole.any(|other| other == byte))
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

/// What the first line that is not empty asks for: `agent` alone, or a path before any query.
fn question(received: &[u8]) -> Request {
    let text: String = received.iter().map(|byte| char::from(*byte)).collect();
    let text = text.trim_start_matches(['\r', '\n']);
    let line = text.split_once('\n').map_or(text, |(line, _)| line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let rest = line.split_once(' ').map(|(_, rest)| rest);
    // `http://HOST/PATH` asks the same as `/PATH`; the host also ends at the end of the target.
    let path = rest.map(|rest| match rest.strip_prefix("http://") {
        Some(rest) => &rest[rest.find(['/', ' ']).unwrap_or(rest.len())..],
        None => rest,
    });
    let after_health = path.and_then(|path| path.strip_prefix("/health"));
    match after_health {
        None if line == "agent" => Request::Agent,
        Some(after) if after.is_empty() || after.starts_with([' ', '?']) => Request::Health,
        _ => Request::Role,
    }
}

/// What stands before the first blank of the first line that is not empty.
fn first_word(received: &[u8]) -> Option<&[u8]> {
    let mut lines = received.split(|byte| b"\r\n".contains(byte));
    let line = lines.find(|line| !line.is_empty())?;
    let end = line.iter().position(|byte| *byte == b' ')?;
    Some(&line[..end])
}

/// A cache entry: an accepted one can be written in one way only.
pub fn entry(input: &[u8]) {
    let Ok(line) = std::str::from_utf8(input) else { return };
    let Some(entry) = CacheEntry::decode(line) else { return };
    assert_eq!(entry.encode(), line, "not what is written");
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[0], "cmonhachk4");
    assert_eq!(words[1], format!("{:016x}", entry.key));
    assert_eq!(words[2], entry.boot.as_deref().unwrap_or("-"));
    assert_eq!(words[3], entry.from.as_micros().to_string());
    let hold = |hold: Hold| format!("{}/{:08x}", hold.span.as_millis(), hold.credentials);
    assert_eq!(words[4], entry.hold.map_or("-".to_string(), hold));
    match entry.verdict {
        Verdict::Leader => assert_eq!(words[5..], ["leader"]),
        Verdict::Follower => assert_eq!(words[5..], ["follower"]),
        Verdict::Unknown(reason) => assert_eq!(words[5..], ["unknown", reason.code()]),
    }
}
