//! A cache entry: a verdict, since when it is known, and when s9s can be run again.
//!
//! Its serialised form is one line, `cmonhachk7 KEY FROM TOOK SPAN/REFUSED PID/START VERDICT`: the cache key in
//! 16 hexadecimal digits, the start of the run of s9s in microseconds since boot, the time that it took, the [`BackOff`]
//! and the verdict in its words. Spans are in milliseconds. `-` stands for no run, and `0/0` for no process. The line
//! is shorter than 128 bytes, so that it fits into the inode of a symbolic link on a tmpfs and can be written where no
//! block is free.

use std::time::Duration;

use super::backoff::BackOff;
use crate::os::clock::Instant;
use crate::s9s::process::UnkillableProcess;
use crate::verdict::Verdict;

/// A verdict that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The cache key of the check that reached it.
    pub key: u64,
    /// When the run of s9s began: the information is as old as that.
    pub from: Instant,
    /// How long the run took, if s9s was started.
    pub took: Option<Duration>,
    /// When s9s can be run again.
    pub back_off: BackOff,
    /// The verdict.
    pub verdict: Verdict,
}

impl Entry {
    /// The entry's line.
    pub fn encode(&self) -> String {
        let back_off = &self.back_off;
        let (pid, started) = back_off
            .unkillable
            .map_or((0, 0), |process| (process.pid, process.started));
        let took = self.took.map_or("-".to_string(), |took| took.as_millis().to_string());
        format!(
            "cmonhachk7 {:016x} {} {took} {}/{} {pid}/{started} {}",
            self.key,
            self.from.0.as_micros(),
            back_off.span.as_millis(),
            back_off.refused.as_millis(),
            self.verdict.words()
        )
    }

    /// Reads an entry's line. None for everything that is not written as [`Entry::encode`] does.
    pub fn decode(line: &str) -> Option<Entry> {
        let mut words = line.splitn(7, ' ').skip(1);
        let key = u64::from_str_radix(words.next()?, 16).ok()?;
        let from = Instant(Duration::from_micros(words.next()?.parse().ok()?));
        let took = match words.next()? {
            "-" => None,
            millis => Some(Duration::from_millis(millis.parse().ok()?)),
        };
        let (span, refused) = words.next()?.split_once('/')?;
        let (pid, started) = words.next()?.split_once('/')?;
        let process = UnkillableProcess {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        };
        let entry = Entry {
            key,
            from,
            took,
            back_off: BackOff {
                span: Duration::from_millis(span.parse().ok()?),
                refused: Duration::from_millis(refused.parse().ok()?),
                unkillable: (process.pid != 0).then_some(process),
            },
            verdict: Verdict::from_words(words.next()?)?,
        };
        // This also compares the first word, and the spelling of the numbers.
        (entry.encode() == line).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Role;
    use crate::verdict::reason::Reason;

    fn entries() -> impl Iterator<Item = Entry> {
        let unknown = Reason::ALL.into_iter().map(Verdict::Unknown);
        [Verdict::Known(Role::Leader), Verdict::Known(Role::Follower)]
            .into_iter()
            .chain(unknown)
            .map(|verdict| Entry {
                key: 0x0123_4567_89ab_cdef,
                // A machine that has run for thirty years.
                from: Instant(Duration::from_micros(999_999_999_999_999)),
                took: (verdict != Verdict::Unknown(Reason::S9sNotFound)).then_some(Duration::from_secs(3600)),
                back_off: BackOff {
                    span: Duration::from_secs(3600),
                    refused: Duration::from_secs(3600),
                    unkillable: (verdict == Verdict::Unknown(Reason::Stuck)).then_some(UnkillableProcess {
                        pid: 4_194_304,
                        started: 99_999_999_999,
                    }),
                },
                verdict,
            })
    }

    #[test]
    fn every_entry_comes_back_as_it_went_and_fits_an_inode() {
        for entry in entries() {
            let line = entry.encode();
            assert!(line.len() < 128, "{line}");
            assert_eq!(Entry::decode(&line), Some(entry));
        }
    }

    #[test]
    fn a_line_in_another_spelling_or_version_is_no_entry() {
        let line = entries().next().unwrap().encode();
        for (from, to) in [
            ("cmonhachk7", "cmonhachk6"),
            (" 9999", " +9999"),
            (" 9999", " 09999"),
            (" 3600000 ", " +3600000 "),
            (" 3600000 ", " -1 "),
            (" 3600000 ", " "),
            (" 0/0 ", " - "),
            (" 0/0 ", " 0/5 "),
            (" 0/0 ", " "),
            ("/3600000 ", "/3600000/1 "),
            ("/3600000 ", " "),
            ("89abcdef ", "89ABCDEF "),
            (" 0123", " 123"),
            (" leader", " Leader"),
            (" leader", " leader "),
            (" leader", " unknown nonsense"),
            (" leader", ""),
            ("cmonhachk7 ", ""),
        ] {
            let other = line.replace(from, to);
            assert_ne!(other, line);
            assert_eq!(Entry::decode(&other), None, "{other}");
        }
        assert_eq!(Entry::decode(""), None);
    }
}
