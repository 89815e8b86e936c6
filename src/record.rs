//! The last verdict as the lock file holds it.
//!
//! One line of a fixed length, so that it is written in one piece over the one before and an
//! operator can read it: `cmonhachk-verdict 2 boot=… at=… until=… for=… leader sum=…`. Whatever does not
//! read as exactly that, to the last digit of its sum, holds no verdict.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::reason::Reason;
use crate::verdict::Verdict;

/// The length of a record, its newline included. In bytes.
pub const LEN: usize = 192;

const MAGIC: &str = "cmonhachk-verdict 2";

/// A verdict that was reached, and for whom and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The kernel's boot id; a verdict from before a reboot counts for nothing.
    pub boot: String,
    /// When it was reached, in nanoseconds since that boot (`CLOCK_BOOTTIME`).
    pub at: u64,
    /// Until when it is given again, on the same clock.
    pub until: u64,
    /// A digest of what was asked: another defaults file or another s9s makes another verdict.
    pub question: u64,
    /// The verdict.
    pub verdict: Verdict,
}

impl Record {
    /// Whether the verdict is still given again at `now`, on the record's clock. One from the
    /// future is not.
    pub fn counts_at(&self, now: u64) -> bool {
        (self.at..self.until).contains(&now)
    }

    /// The record's line.
    pub fn encode(&self) -> [u8; LEN] {
        let signed = self.signed();
        let line = format!(
            "{signed:<width$} sum={:016x}\n",
            sum(&signed),
            width = LEN - " sum=".len() - 16 - 1
        );
        line.into_bytes()
            .try_into()
            .expect("boot ids have 36 characters and codes at most 22")
    }

    /// Reads a record's line.
    pub fn decode(line: &[u8]) -> Option<Record> {
        let text = std::str::from_utf8(line).ok()?;
        if text.len() != LEN || !text.is_ascii() {
            return None;
        }
        let (padded, digits) = text.strip_suffix('\n')?.rsplit_once(" sum=")?;
        let signed = padded.trim_end_matches(' ');
        if digits != format!("{:016x}", sum(signed)) {
            return None;
        }
        let mut words = signed.strip_prefix(MAGIC)?.strip_prefix(' ')?.split(' ');
        let boot = words.next()?.strip_prefix("boot=")?.to_string();
        let at = words.next()?.strip_prefix("at=")?.parse().ok()?;
        let until = words.next()?.strip_prefix("until=")?.parse().ok()?;
        let question = u64::from_str_radix(words.next()?.strip_prefix("for=")?, 16).ok()?;
        let verdict = match (words.next()?, words.next(), words.next()) {
            ("leader", None, None) => Verdict::Leader,
            ("follower", None, None) => Verdict::Follower,
            ("unknown", Some(code), None) => Verdict::Unknown(Reason::from_code(code)?),
            _ => return None,
        };
        let record = Record {
            boot,
            at,
            until,
            question,
            verdict,
        };
        // Numbers can be spelled in more ways than one, but this is how they are written.
        (record.signed() == signed).then_some(record)
    }

    /// What the sum is of.
    fn signed(&self) -> String {
        let Record {
            boot,
            at,
            until,
            question,
            verdict,
        } = self;
        format!(
            "{MAGIC} boot={boot} at={at} until={until} for={question:016x} {}",
            verdict.words()
        )
    }
}

/// Tells a record that was read while another was being written, or cut short by a power loss.
fn sum(signed: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    signed.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let unknown = Reason::ALL.into_iter().map(Verdict::Unknown);
        [Verdict::Leader, Verdict::Follower]
            .into_iter()
            .chain(unknown)
            .map(|verdict| Record {
                boot: "0c9b8a4e-3f1d-4a57-9d0e-6f2b7c1a5e33".to_string(),
                at: u64::MAX,
                until: u64::MAX,
                question: 0x0123_4567_89ab_cdef,
                verdict,
            })
            .collect()
    }

    #[test]
    fn every_verdict_comes_back_as_it_went() {
        for record in records() {
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
    }

    #[test]
    fn a_record_with_any_byte_changed_or_missing_holds_nothing() {
        let line = records()[0].encode();
        for at in 0..LEN {
            for other in [line[at] ^ 1, b' ', b'\n', 0xff] {
                let mut damaged = line;
                damaged[at] = other;
                assert!(
                    damaged == line || Record::decode(&damaged).is_none(),
                    "byte {at} as {other}"
                );
            }
            assert_eq!(Record::decode(&line[..at]), None);
        }
    }

    #[test]
    fn a_record_spelled_otherwise_holds_nothing() {
        let record = records()[0].clone();
        let signed = record.signed();
        for (from, to) in [
            (" at=1844", " at=+1844"),
            (" at=1844", " at=01844"),
            ("89abcdef ", "89ABCDEF "),
            ("for=0123", "for=123"),
            ("for=0123", "for=+123"),
            ("boot=0c", "boot=é"),
        ] {
            let other = signed.replace(from, to);
            assert_ne!(other, signed);
            for (text, read) in [(&signed, Some(&record)), (&other, None)] {
                let padding = " ".repeat(LEN - text.len() - 22);
                let line = format!("{text}{padding} sum={:016x}\n", sum(text));
                assert_eq!(Record::decode(line.as_bytes()).as_ref(), read, "{line}");
            }
        }
    }

    #[test]
    fn a_mix_of_two_records_holds_nothing() {
        let (leader, follower) = (records()[0].encode(), records()[1].encode());
        for at in 1..LEN {
            let mixed = [&leader[..at], &follower[at..]].concat();
            assert!(
                mixed == leader || mixed == follower || Record::decode(&mixed).is_none(),
                "mixed at {at}"
            );
        }
    }
}
