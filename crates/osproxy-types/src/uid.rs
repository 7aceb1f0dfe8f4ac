//! Unique ids of files: 63 bits that begin with a timestamp, so that uids are roughly ordered by
//! time. A node that has a worker id issues uids without asking other nodes.

use std::{fmt, str::FromStr};

/// The epoch of uid timestamps, in milliseconds since the Unix epoch. The Go program uses the same
/// epoch. New uids have later timestamps than the uids that the Go program issued, so they cannot
/// collide.
pub const EPOCH_MS: u64 = 1_417_937_700_000;
/// Number of bits of the worker id. They are between the timestamp and the sequence.
pub const WORKER_BITS: u32 = 10;
/// Number of bits of the sequence. They are the lowest bits of a uid.
pub const SEQUENCE_BITS: u32 = 12;

/// The id of a file. It is a decimal string in JSON and in links, because JavaScript numbers are
/// exact only up to 53 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(i64);

impl Uid {
    /// The number, as the database stores it.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The timestamp in the uid, in milliseconds since the Unix epoch. It is close to the time at
    /// which the uid was issued.
    pub const fn timestamp_ms(self) -> u64 {
        (self.0.unsigned_abs() >> (WORKER_BITS + SEQUENCE_BITS)) + EPOCH_MS
    }

    /// The smallest uid with the timestamp `ms`, in milliseconds since the Unix epoch. Timestamps
    /// that do not fit into a uid are clamped.
    pub const fn min_at_ms(ms: i64) -> Self {
        let since_epoch = ms.saturating_sub(EPOCH_MS.cast_signed());
        if since_epoch <= 0 {
            return Self(0);
        }
        // The latest timestamp that fits into a uid.
        let max = i64::MAX >> (WORKER_BITS + SEQUENCE_BITS);
        Self((if since_epoch < max { since_epoch } else { max }) << (WORKER_BITS + SEQUENCE_BITS))
    }

    /// A uid with the timestamp `ms`, in milliseconds since the Unix epoch, whose other bits are those
    /// of `random`. It may equal another uid, so it is only for a process without a worker id, and for a
    /// row whose key must be unique in its table.
    pub const fn random_at_ms(ms: i64, random: u32) -> Self {
        let below_timestamp = (1 << (WORKER_BITS + SEQUENCE_BITS)) - 1;
        Self(Self::min_at_ms(ms).0 | (random & below_timestamp) as i64)
    }

    /// Creates a uid from a number in the database, without checking the number.
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
    fn random_uids_keep_their_timestamp() {
        let ms = EPOCH_MS.cast_signed() + 5;
        assert_eq!(Uid::random_at_ms(ms, 0), Uid::min_at_ms(ms));
        assert_eq!(Uid::random_at_ms(ms, u32::MAX), Uid(Uid::min_at_ms(ms + 1).0 - 1));
    }

    #[test]
    fn a_uid_has_one_spelling() {
        assert_eq!("42".parse(), Ok(Uid(42)));
        for text in ["", "0", "-1", "+1", "007", "1 ", "1.0", "x", "9223372036854775808", "٣"] {
            assert_eq!(text.parse::<Uid>(), Err(InvalidUid), "{text:?}");
        }
    }
}
