//! Unique ids of files: 63 bits, ordered by time, issued without coordination per uid.

use std::{fmt, str::FromStr};

/// Epoch of uids, in milliseconds since the Unix epoch. The Go program has the same, so its uids
/// never collide with ours.
pub const EPOCH_MS: u64 = 1_417_937_700_000;
/// Bits of the worker id, above the sequence.
pub const WORKER_BITS: u32 = 10;
/// Bits of the sequence, the lowest ones.
pub const SEQUENCE_BITS: u32 = 12;

/// The id of a file. A decimal string in JSON and in links, since JavaScript numbers cannot hold 63
/// bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(i64);

impl Uid {
    /// The number, as the database stores it.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// When the uid was issued by the clock of its node, in milliseconds since the Unix epoch.
    pub const fn timestamp_ms(self) -> u64 {
        (self.0.unsigned_abs() >> (WORKER_BITS + SEQUENCE_BITS)) + EPOCH_MS
    }

    /// The smallest uid that can be issued at `ms`, in milliseconds since the Unix epoch.
    pub const fn min_at_ms(ms: i64) -> Self {
        let since_epoch = ms.saturating_sub(EPOCH_MS.cast_signed());
        if since_epoch <= 0 {
            return Self(0);
        }
        // Far beyond the last moment that fits into a uid.
        let max = i64::MAX >> (WORKER_BITS + SEQUENCE_BITS);
        Self((if since_epoch < max { since_epoch } else { max }) << (WORKER_BITS + SEQUENCE_BITS))
    }

    /// Creates a uid from its number, without checking it.
    pub const fn from_db(uid: i64) -> Self {
        Self(uid)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not a uid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a uid is a positive decimal number")]
pub struct InvalidUid;

impl FromStr for Uid {
    type Err = InvalidUid;

    fn from_str(text: &str) -> Result<Self, InvalidUid> {
        // A uid has only one valid spelling: no sign, no leading zero.
        if !text.starts_with(|first: char| matches!(first, '1'..='9')) {
            return Err(InvalidUid);
        }
        text.parse().map(Self).map_err(|_| InvalidUid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_has_one_spelling() {
        assert_eq!("42".parse(), Ok(Uid(42)));
        for text in ["", "0", "-1", "+1", "007", "1 ", "1.0", "x", "9223372036854775808", "٣"] {
            assert_eq!(text.parse::<Uid>(), Err(InvalidUid), "{text:?}");
        }
    }
}
