//! The `Range` header (RFC 9110, section 14). Only one range of bytes is supported; a request for
//! several ranges gets the whole content, as the RFC allows.

use std::ops::Range;

/// The bytes that a `Range` header asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedRange {
    /// The whole content: the header is absent or invalid, has several ranges, or uses a unit other
    /// than bytes.
    Whole,
    /// A range of at least one byte, within the content.
    Satisfiable(Range<u64>),
    /// A valid range that contains no byte of the content: status 416.
    Unsatisfiable,
}

/// Parses a `Range` header for content of `size` bytes.
pub fn parse(field: &str, size: u64) -> RequestedRange {
    let Some((unit, set)) = field.split_once('=') else {
        return RequestedRange::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return RequestedRange::Whole;
    }
    let set = set.trim();
    let Some((first, last)) = set.split_once('-').filter(|_| !set.contains(',')) else {
        return RequestedRange::Whole;
    };
    match (parse_number(first), parse_number(last)) {
        (Number::Absent, Number::Value(suffix)) => satisfiable(size.saturating_sub(suffix), size, size),
        (Number::Value(first), Number::Absent) => satisfiable(first, size, size),
        (Number::Value(start), Number::Value(end)) if !is_greater(first, last) => {
            satisfiable(start, end.saturating_add(1), size)
        }
        _ => RequestedRange::Whole,
    }
}

fn satisfiable(start: u64, end: u64, size: u64) -> RequestedRange {
    if start < size {
        RequestedRange::Satisfiable(start..end.min(size))
    } else {
        RequestedRange::Unsatisfiable
    }
}

enum Number {
    Absent,
    Value(u64),
    Invalid,
}

fn parse_number(text: &str) -> Number {
    if text.is_empty() {
        return Number::Absent;
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Number::Invalid;
    }
    // A number that overflows is still valid: it lies beyond any size.
    Number::Value(text.parse().unwrap_or(u64::MAX))
}

/// Compares decimal numbers of any length.
fn is_greater(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    (a.len(), a) > (b.len(), b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn single_ranges_are_parsed() {
        for (field, expected) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-", 0..10),
            ("bytes=3-5", 3..6),
            ("bytes=9-9", 9..10),
            ("bytes=5-99", 5..10),
            ("bytes=-1", 9..10),
            ("bytes=-99", 0..10),
            ("Bytes= 2-3 ", 2..4),
            ("bytes=0-18446744073709551615", 0..10),
            ("bytes=0-99999999999999999999999", 0..10),
        ] {
            assert_eq!(parse(field, 10), RequestedRange::Satisfiable(expected), "{field}");
        }
    }

    #[test]
    fn ranges_outside_the_content_are_unsatisfiable() {
        for (field, size) in [
            ("bytes=10-", 10),
            ("bytes=10-20", 10),
            ("bytes=99999999999999999999999-", 10),
            ("bytes=18446744073709551616-18446744073709551616", 10),
            ("bytes=-0", 10),
            ("bytes=0-", 0),
            ("bytes=-5", 0),
        ] {
            assert_eq!(parse(field, size), RequestedRange::Unsatisfiable, "{field} of {size}");
        }
    }

    #[test]
    fn invalid_and_multiple_ranges_are_ignored() {
        for field in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=5-3",
            "bytes=18446744073709551617-18446744073709551616",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=0-1,4-5",
            "items=0-1",
            "bytes=0x0-1",
            "bytes 0-1",
        ] {
            assert_eq!(parse(field, 10), RequestedRange::Whole, "{field:?}");
        }
    }

    proptest! {
        #[test]
        fn satisfiable_ranges_lie_within_the_content(field in "(bytes=)?[0-9a,= -]{0,30}", size in 0u64..100) {
            if let RequestedRange::Satisfiable(range) = parse(&field, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn every_valid_range_is_parsed(first in 0u64..200, len in 0u64..200, size in 1u64..100) {
            let last = first + len;
            let expected = if first < size {
                RequestedRange::Satisfiable(first..size.min(last + 1))
            } else {
                RequestedRange::Unsatisfiable
            };
            prop_assert_eq!(parse(&format!("bytes={first}-{last}"), size), expected);
        }
    }
}
