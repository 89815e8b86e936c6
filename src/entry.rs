//! A cache entry: a verdict, and since when it is known.
//!
//! The format is one line, `cmonhachk3 KEY BOOT FROM VERDICT`: the cache key in 16 hexadecimal
//! digits, the kernel's boot id or `-`, the start of the run of s9s in nanoseconds since that boot, and
//! the verdict in its words. It is shorter than 128 bytes, so that it fits into the inode of a symbolic
//! link on a tmpfs and can be written where no block is free.

use std::time::Duration;

use crate::verdict::Verdict;

/// A verdict that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The cache key of the check that reached it.
    pub key: u64,
    /// The boot id; None where the kernel did not say.
    pub boot: Option<String>,
    /// When the run of s9s began, since boot: the information is as old as that.
    pub from: Duration,
    /// The verdict.
    pub verdict: Verdict,
}

impl Entry {
    /// How old the entry's information is at `now`; None where it is from the future.
    pub fn age(&self, now: Duration) -> Option<Duration> {
        now.checked_sub(self.from)
    }

    /// The entry's line.
    pub fn encode(&self) -> String {
        format!(
            "cmonhachk3 {:016x} {} {} {}",
            self.key,
            self.boot.as_deref().unwrap_or("-"),
            self.from.as_nanos(),
            self.verdict.words()
        )
    }

    /// Reads an entry's line. None for everything that is not written as [`Entry::encode`] does.
    pub fn decode(line: &str) -> Option<Entry> {
        let mut words = line.splitn(5, ' ');
        let (_, key, boot, from, verdict) = (
            words.next()?,
            words.next()?,
            words.next()?,
            words.next()?,
            words.next()?,
        );
        let entry = Entry {
            key: u64::from_str_radix(key, 16).ok()?,
            boot: Some(boot.to_string()).filter(|boot| boot != "-"),
            from: Duration::from_nanos(from.parse().ok()?),
            verdict: Verdict::from_words(verdict)?,
        };
        // This also compares the first word, and the spelling of the numbers.
        (entry.encode() == line).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    fn entries() -> impl Iterator<Item = Entry> {
        let unknown = Reason::ALL.into_iter().map(Verdict::Unknown);
        [Verdict::Leader, Verdict::Follower]
            .into_iter()
            .chain(unknown)
            .map(|verdict| Entry {
                key: 0x0123_4567_89ab_cdef,
                boot: Some("0c9b8a4e-3f1d-4a57-9d0e-6f2b7c1a5e33".to_string()),
                from: Duration::from_nanos(u64::MAX),
                verdict,
            })
    }

    #[test]
    fn every_entry_comes_back_as_it_went_and_fits_an_inode() {
        for entry in entries() {
            let line = entry.encode();
            assert!(line.len() < 128, "{line}");
            assert_eq!(Entry::decode(&line), Some(entry.clone()));
            let bootless = Entry { boot: None, ..entry };
            assert_eq!(Entry::decode(&bootless.encode()), Some(bootless));
        }
    }

    #[test]
    fn a_line_in_another_spelling_or_version_is_no_entry() {
        let line = entries().next().unwrap().encode();
        for (from, to) in [
            ("cmonhachk3", "cmonhachk4"),
            (" 1844", " +1844"),
            (" 1844", " 01844"),
            ("89abcdef ", "89ABCDEF "),
            (" 0123", " 123"),
            (" leader", " Leader"),
            (" leader", " leader "),
            (" leader", " unknown nonsense"),
            (" leader", ""),
            ("cmonhachk3 ", ""),
        ] {
            let other = line.replace(from, to);
            assert_ne!(other, line);
            assert_eq!(Entry::decode(&other), None, "{other}");
        }
        assert_eq!(Entry::decode(""), None);
    }
}
