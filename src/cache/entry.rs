//! A cache entry: a verdict, since when it is known, and when s9s can be run again.
//!
//! The format is one line, `cmonhachk5 KEY FROM SPAN/REFUSED/CREDENTIALS PID/START VERDICT`: the cache key in
//! 16 hexadecimal digits, the start of the run of s9s in microseconds since boot, the [`Pause`] and the
//! verdict in its words. Spans are in milliseconds, the digest of the credentials is 8 hexadecimal digits,
//! and `0/0` stands for no process. The line is shorter than 128 bytes, so that it fits into the inode of a
//! symbolic link on a tmpfs and can be written where no block is free.

use std::time::Duration;

use crate::cache::backoff::Pause;
use crate::os::clock::Moment;
use crate::s9s::process::Survivor;
use crate::verdict::Verdict;

/// A verdict that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The cache key of the check that reached it.
    pub key: u64,
    /// When the run of s9s began: the information is as old as that.
    pub from: Moment,
    /// When s9s can be run again.
    pub pause: Pause,
    /// The verdict.
    pub verdict: Verdict,
}

impl Entry {
    /// The entry's line.
    pub fn encode(&self) -> String {
        let pause = &self.pause;
        let (pid, started) = pause
            .survivor
            .map_or((0, 0), |survivor| (survivor.pid, survivor.started));
        format!(
            "cmonhachk5 {:016x} {} {}/{}/{:08x} {pid}/{started} {}",
            self.key,
            self.from.0.as_micros(),
            pause.span.as_millis(),
            pause.refused.as_millis(),
            pause.credentials,
            self.verdict.words()
        )
    }

    /// Reads an entry's line. None for everything that is not written as [`Entry::encode`] does.
    pub fn decode(line: &str) -> Option<Entry> {
        let mut words = line.splitn(6, ' ').skip(1);
        let key = u64::from_str_radix(words.next()?, 16).ok()?;
        let from = Moment(Duration::from_micros(words.next()?.parse().ok()?));
        let mut pause = words.next()?.split('/');
        let mut span = || Some(Duration::from_millis(pause.next()?.parse().ok()?));
        let (span, refused) = (span()?, span()?);
        let credentials = u32::from_str_radix(pause.next()?, 16).ok()?;
        let (pid, started) = words.next()?.split_once('/')?;
        let (pid, started) = (pid.parse().ok()?, started.parse().ok()?);
        let survivor = Some(Survivor { pid, started }).filter(|survivor| survivor.pid != 0);
        let verdict = Verdict::from_words(words.next()?)?;
        let entry = Entry {
            key,
            from,
            pause: Pause {
                span,
                refused,
                credentials,
                survivor,
            },
            verdict,
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
                from: Moment(Duration::from_micros(999_999_999_999_999)),
                pause: Pause {
                    span: Duration::from_secs(3600),
                    refused: Duration::from_secs(3600),
                    credentials: 0x00ad_beef,
                    survivor: (verdict == Verdict::Unknown(Reason::Stuck)).then_some(Survivor {
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
            ("cmonhachk5", "cmonhachk4"),
            (" 9999", " +9999"),
            (" 9999", " 09999"),
            (" 0/0 ", " - "),
            (" 0/0 ", " 0/5 "),
            (" 0/0 ", " "),
            ("/00adbeef", "/00ADBEEF"),
            ("/00adbeef", ""),
            (" 3600000/", " 3600000/1/"),
            ("89abcdef ", "89ABCDEF "),
            (" 0123", " 123"),
            (" leader", " Leader"),
            (" leader", " leader "),
            (" leader", " unknown nonsense"),
            (" leader", ""),
            ("cmonhachk5 ", ""),
        ] {
            let other = line.replace(from, to);
            assert_ne!(other, line);
            assert_eq!(Entry::decode(&other), None, "{other}");
        }
        assert_eq!(Entry::decode(""), None);
    }
}
