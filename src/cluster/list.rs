//! The controller list: what `s9s controller --list --long` prints.
//!
//! The format, as the genuine client (s9s-tools 1.9) prints it:
//!
//! ```text
//! S VERSION    OWNER  GROUP  NAME       IP         PORT COMMENT
//! l 1.7.4.3565 system admins 10.0.0.101 10.0.0.101 9501 Acting as leader.
//! f 1.7.4.3565 system admins 10.0.0.102 10.0.0.102 9501 Accepting heartbeats.
//! Total: 2 controller(s)
//! ```
//!
//! Every column but the last is padded, in bytes, to its widest value or its title, and one space
//! follows. Values may hold blanks, so only the titles' offsets say where a column starts. COMMENT is
//! free text, perhaps of several lines, and is not evaluated. Without controllers there is only the last
//! line.

use std::net::IpAddr;

use anyhow::{Result, anyhow, bail, ensure};

/// What the first column says about a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// `l`: online, and leads.
    Leader,
    /// `f`: online, and follows.
    Follower,
    /// `?`: online, in any other role.
    NoRole,
    /// `-`: not online, whatever its role.
    Offline,
}

/// One controller's line, as slices of the list's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The S column.
    pub state: State,
    /// The NAME column.
    pub name: &'a [u8],
    /// The IP column: an address, or `-` where the controller has none.
    pub ip: &'a [u8],
    /// The row's line; its COMMENT may go on in the next ones.
    pub line: &'a [u8],
}

impl Row<'_> {
    /// The row's address: its IP, or, if IP is `-`, its NAME if that is an address. An IPv4-mapped
    /// IPv6 address is given as the IPv4 address.
    pub fn address(&self) -> Option<IpAddr> {
        match self.ip {
            b"-" => self.name_as_address(),
            ip => address(ip),
        }
    }

    /// The NAME, if it is an address.
    pub fn name_as_address(&self) -> Option<IpAddr> {
        address(self.name)
    }
}

fn address(field: &[u8]) -> Option<IpAddr> {
    let address: IpAddr = std::str::from_utf8(field).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

/// Reads a list without colour. It is strict, because a list that is cut or damaged must never be believed: the
/// header comes first, then a row that fits its columns, and the last line counts the rows. A line that
/// does not fit continues the COMMENT of the row before it.
///
/// # Errors
/// The first reason why the text is no controller list.
pub fn parse(text: &[u8]) -> Result<Vec<Row<'_>>> {
    let mut lines = text.split(|byte| *byte == b'\n').collect::<Vec<_>>();
    while lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    let (last, lines) = lines.split_last().ok_or_else(|| anyhow!("it is empty"))?;
    let total =
        total(last).ok_or_else(|| anyhow!("its last line is no \"Total: N controller(s)\": {}", quote(last)))?;
    let Some((header, lines)) = lines.split_first() else {
        ensure!(total == 0, "it counts {total} controllers and shows none");
        return Ok(Vec::new());
    };
    let columns = Columns::from_header(header)?;
    let mut rows = Vec::new();
    for line in lines {
        match columns.row(line) {
            Some(row) => rows.push(row),
            // A line that begins like a leader's row is never a comment: it could be a second leader.
            None if rows.is_empty() || line.starts_with(b"l ") => {
                bail!("a line does not fit the header's columns: {}", quote(line))
            }
            None => {}
        }
    }
    let count = rows.len();
    ensure!(count == total, "it counts {total} controllers and shows {count}");
    Ok(rows)
}

/// The N of `Total: N controller(s)`.
fn total(line: &[u8]) -> Option<usize> {
    let digits = line.strip_prefix(b"Total: ")?.strip_suffix(b" controller(s)")?;
    let number = std::str::from_utf8(digits).ok()?;
    number.parse().ok().filter(|_| !number.starts_with('+'))
}

/// Where the columns that matter start, in bytes.
struct Columns {
    name: usize,
    ip: usize,
}

impl Columns {
    fn from_header(header: &[u8]) -> Result<Columns> {
        let starts = (0..header.len()).filter(|at| header[*at] != b' ' && (*at == 0 || header[*at - 1] == b' '));
        let titles: Vec<(usize, &[u8])> = starts
            .map(|at| (at, header[at..].split(|byte| *byte == b' ').next().unwrap_or_default()))
            .collect();
        // A list with a new column before NAME is still read; one with these columns moved is refused.
        match titles.as_slice() {
            [
                (0, b"S"),
                ..,
                (name, b"NAME"),
                (ip, b"IP"),
                (_, b"PORT"),
                (_, b"COMMENT"),
            ] => Ok(Columns { name: *name, ip: *ip }),
            _ => bail!("its first line is no header: {}", quote(header)),
        }
    }

    /// The row that the line is, if it fits the columns.
    fn row<'a>(&self, line: &'a [u8]) -> Option<Row<'a>> {
        let state = match line.first()? {
            b'l' => State::Leader,
            b'f' => State::Follower,
            b'?' => State::NoRole,
            b'-' => State::Offline,
            _ => return None,
        };
        // NAME may hold blanks; an IP has none. PORT, after it, may be right-aligned: its digits may
        // start before its title.
        let from_ip = line.get(self.ip..)?;
        let mut fields = from_ip.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
        let (ip, port) = (fields.next()?, fields.next()?);
        let separated =
            line[1] == b' ' && line[self.name - 1] == b' ' && line[self.ip - 1] == b' ' && from_ip[0] != b' ';
        let has_port = port.strip_prefix(b"-").unwrap_or(port).iter().all(u8::is_ascii_digit);
        (separated && has_port).then(|| Row {
            state,
            name: without_padding(&line[self.name..self.ip]),
            ip,
            line,
        })
    }
}

fn without_padding(field: &[u8]) -> &[u8] {
    let end = field.iter().rposition(|byte| *byte != b' ');
    &field[..end.map_or(0, |end| end + 1)]
}

fn quote(line: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "\
S VERSION    OWNER  GROUP  NAME      IP        PORT COMMENT
f 2.3.4.5678 system admins 10.20.0.1 10.20.0.1 9501 Accepting heartbeats.
l 2.3.4.5678 system admins 10.20.0.2 10.20.0.2 9501 Acting as leader.
- -          system admins 10.20.0.3 -         9501 Not responding to heartbeats.
Total: 3 controller(s)
";

    fn why(text: &str) -> String {
        format!("{:#}", parse(text.as_bytes()).unwrap_err())
    }

    #[test]
    fn rows_are_read_by_column() {
        let rows = parse(THREE.as_bytes()).unwrap();
        let seen: Vec<_> = rows.iter().map(|row| (row.state, row.name, row.ip)).collect();
        assert_eq!(
            seen,
            [
                (State::Follower, &b"10.20.0.1"[..], &b"10.20.0.1"[..]),
                (State::Leader, b"10.20.0.2", b"10.20.0.2"),
                (State::Offline, b"10.20.0.3", b"-"),
            ]
        );
        assert_eq!(rows[2].address(), Some("10.20.0.3".parse().unwrap()));
    }

    #[test]
    fn a_cluster_without_ha_has_no_rows() {
        assert_eq!(parse(b"Total: 0 controller(s)\n").unwrap(), []);
    }

    #[test]
    fn blanks_belong_to_the_field_they_stand_in() {
        let rows = parse(
            b"S VERSION OWNER      GROUP     NAME                  IP        PORT COMMENT\n\
              l 1.9     web master sys admin the 10.9.9.9 9501 box 10.20.0.1  443 f 10.9.9.9 9501\n\
              Total: 1 controller(s)\n",
        )
        .unwrap();
        assert_eq!(
            (rows[0].name, rows[0].ip),
            (&b"the 10.9.9.9 9501 box"[..], &b"10.20.0.1"[..])
        );
    }

    #[test]
    fn ports_of_any_width_are_read_under_a_title_set_either_way() {
        for header in [
            "S VERSION OWNER GROUP NAME IP       PORT  COMMENT",
            "S VERSION OWNER GROUP NAME IP        PORT COMMENT",
        ] {
            let text = format!(
                "{header}\nl 1.9     a     b     cc1  10.0.0.1 19501 Acting as leader.\nf 1.9     a     b     cc2  10.0.0.2  9501\nTotal: 2 controller(s)\n"
            );
            let rows = parse(text.as_bytes()).unwrap();
            assert_eq!((rows[0].ip, rows[1].ip), (&b"10.0.0.1"[..], &b"10.0.0.2"[..]));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(why(""), "it is empty");
        assert_eq!(why("\n\n"), "it is empty");
        assert!(why("Segmentation fault\n").contains("Segmentation fault"));
        assert!(why("Total: 1 controller(s)\n").contains("shows none"));
        assert!(why("Total:  controller(s)\n").contains("no \"Total"));
        assert!(why("Total: -1 controller(s)\n").contains("no \"Total"));
        assert!(why("Total: 99999999999999999999999 controller(s)\n").contains("no \"Total"));
    }

    #[test]
    fn a_list_cut_anywhere_is_refused() {
        let whole = THREE.trim_end();
        for end in 0..whole.len() {
            assert!(parse(&whole.as_bytes()[..end]).is_err(), "cut after {end} bytes");
        }
    }

    #[test]
    fn a_list_with_lines_lost_doubled_or_added_is_refused() {
        let lines: Vec<&str> = THREE.lines().collect();
        for at in 0..lines.len() {
            let mut lost = lines.clone();
            lost.remove(at);
            assert!(parse(lost.join("\n").as_bytes()).is_err(), "line {at} lost");
            let mut doubled = lines.clone();
            doubled.insert(at, lines[at]);
            // A second count could as well be the end of the last comment.
            let is_count = at == lines.len() - 1;
            assert_eq!(
                parse(doubled.join("\n").as_bytes()).is_ok(),
                is_count,
                "line {at} doubled"
            );
        }
        for at in [0, 1] {
            let mut added = lines.clone();
            added.insert(at, "warning: something");
            assert!(parse(added.join("\n").as_bytes()).is_err(), "line added at {at}");
        }
        assert!(parse(format!("{THREE}more\n").as_bytes()).is_err());
    }

    #[test]
    fn a_comment_of_several_lines_is_one_rows_as_long_as_the_count_agrees() {
        let with_comment = |more: &str| THREE.replace("heartbeats.\nl", &format!("heartbeats.\n{more}\nl"));
        let plain: Vec<_> = parse(THREE.as_bytes()).unwrap();
        for more in [
            "connection refused",
            "connection refused\n\n",
            "Total: 3 controller(s)",
            "S VERSION    OWNER  GROUP  NAME      IP        PORT COMMENT",
            "- node 2\n- node 3",
            "f",
        ] {
            let text = with_comment(more);
            assert_eq!(parse(text.as_bytes()).unwrap(), plain, "{more}");
            let last = THREE.replace("Total", &format!("{more}\nTotal"));
            assert_eq!(parse(last.as_bytes()).unwrap(), plain, "{more}");
        }
        for forged in [
            "l 2.3.4.5678 system admins 10.20.0.1 10.20.0.1 9501 x",
            "f 2.3.4.5678 system admins 10.20.0.9 10.20.0.9 9501",
            "l 10.20.0.1 leads",
        ] {
            assert!(parse(with_comment(forged).as_bytes()).is_err(), "{forged}");
        }
    }

    #[test]
    fn only_padding_is_trimmed_from_a_name() {
        let text = "S VERSION OWNER GROUP NAME   IP       PORT COMMENT\n\
                    l 1.9     a     b     cc1\t   10.0.0.1 9501\nTotal: 1 controller(s)\n";
        assert_eq!(parse(text.as_bytes()).unwrap()[0].name, b"cc1\t");
    }

    #[test]
    fn a_row_that_leaves_its_columns_is_refused() {
        for (from, to) in [
            ("l 2.3.4.5678", "l 2.3.4.5678 "),
            ("l 2.3.4.5678", "l 2.3.4.567"),
            ("10.20.0.2 10.20.0.2", "10.20.0.2 1 0.20.0.2"),
            ("10.20.0.2 9501", "10.20.0.2 x501"),
            ("admins 10.20.0.2", "adminsX10.20.0.2"),
            ("10.20.0.2 10.20.0.2", "10.20.0.2X10.20.0.2"),
            ("l 2", "x 2"),
            ("l 2", "l2 "),
            ("NAME      IP", "NAME     IP "),
            ("IP        PORT", "PORT      IP  "),
        ] {
            let damaged = THREE.replace(from, to);
            assert_ne!(damaged, THREE);
            assert!(parse(damaged.as_bytes()).is_err(), "{from:?} as {to:?}");
        }
    }
}
