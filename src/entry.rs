//! A cache entry: a verdict, and since when it is known.
//!
//! The format is one line, `cmonhachk4 KEY BOOT FROM HOLD VERDICT`: the cache key in 16 hexadecimal
//! digits, the kernel's boot id or `-`, the start of the run of s9s in microseconds since that boot,
//! the hold or `-`, and the verdict in its words. A hold is its span in milliseconds, `/`, and the digest of
//! the credentials in 8 hexadecimal digits. The line is shorter than 128 bytes, so that it fits into the
//! inode of a symbolic link on a tmpfs and can be written where no block is free.

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
    /// How long s9s is not run again, where running it does harm.
    pub hold: Option<Hold>,
    /// The verdict.
    pub verdict: Verdict,
}

/// How long s9s is not run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// From the start of the run that did harm: its login was refused, or it cannot be killed.
    pub span: Duration,
    /// The credentials that it holds for, as [`crate::conf::digest`] has them.
    pub credentials: u32,
}

impl Entry {
    /// How old the entry's information is at `now`; None where it is from the future.
    pub fn age(&self, now: Duration) -> Option<Duration> {
        now.checked_sub(self.from)
    }

    /// The entry's line.
    pub fn encode(&self) -> String {
        let hold = self.hold.map_or("-".to_string(), |hold| {
            format!("{}/{:08x}", hold.span.as_millis(), hold.credentials)
        });
        format!(
            "cmonhachk4 {:016x} {} {} {hold} {}",
            self.key,
            self.boot.as_deref().unwrap_or("-"),
            self.from.as_micros(),
            self.verdict.words()
        )
    }

    /// Reads an entry's line. None for everything that is not written as [`Entry::encode`] does.
    pub fn decode(line: &str) -> Option<Entry> {
        let mut words = line.splitn(6, ' ').skip(1);
        let key = u64::from_str_radix(words.next()?, 16).ok()?;
        let boot = Some(words.next()?.to_string()).filter(|boot| boot != "-");
        let from = Duration::from_micros(words.next()?.parse().ok()?);
        let hold = words.next()?.split_once('/').and_then(|(span, credentials)| {
            let span = Duration::from_millis(span.parse().ok()?);
            let credentials = u32::from_str_radix(credentials, 16).ok()?;
            Some(Hold { span, credentials })
        });
        let verdict = Verdict::from_words(words.next()?)?;
        let entry = Entry {
            key,
            boot,
            from,
            hold,
            verdict,
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
                from: Duration::from_micros(u64::MAX / 1000),
                hold: matches!(verdict, Verdict::Unknown(reason) if reason.is_refusal()).then_some(Hold {
                    span: Duration::from_secs(3600),
                    credentials: 0xdead_beef,
                }),
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
            ("cmonhachk4", "cmonhachk5"),
            (" 1844", " +1844"),
            (" 1844", " 01844"),
            (" - ", " 0 "),
            (" - ", " 1/2 "),
            (" - ", " "),
            ("89abcdef ", "89ABCDEF "),
            (" 0123", " 123"),
            (" leader", " Leader"),
            (" leader", " leader "),
            (" leader", " unknown nonsense"),
            (" leader", ""),
            ("cmonhachk4 ", ""),
        ] {
            let other = line.replace(from, to);
            assert_ne!(other, line);
            assert_eq!(Entry::decode(&other), None, "{other}");
        }
        assert_eq!(Entry::decode(""), None);
    }
}
