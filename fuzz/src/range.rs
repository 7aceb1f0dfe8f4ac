//! `Range` fields. The first line of an input is the size of the content, the second the field.

use osproxy_http::parsers::{RequestedRange, range};

/// A range lies within the content, is in order, and is the requested one.
pub(crate) fn check(input: &[u8]) {
    let ([size, field], _) = crate::lines(input);
    // Sizes are at most `i64::MAX`: no content is larger.
    let size = size.parse().unwrap_or(10_u64) & (u64::MAX >> 1);
    let requested = range(field, size);
    if let RequestedRange::Satisfiable(part) = &requested {
        assert!(part.start < part.end && part.end <= size, "{part:?} of {size} bytes");
    }
    assert_eq!(requested, reference(field, size), "{field:?} of {size} bytes");
}

/// A reference parser that follows RFC 9110: a known unit, one range, decimal numbers of any
/// length.
fn reference(field: &str, size: u64) -> RequestedRange {
    let mut halves = field.splitn(2, '=');
    let (unit, set) = (halves.next().unwrap_or_default(), halves.next());
    let Some(set) = set.filter(|_| unit.trim().eq_ignore_ascii_case("bytes")) else {
        return RequestedRange::Whole;
    };
    let ends: Vec<_> = set.trim().split('-').collect();
    let [first, last] = ends[..] else {
        return RequestedRange::Whole;
    };
    if !first.bytes().chain(last.bytes()).all(|digit| digit.is_ascii_digit()) {
        return RequestedRange::Whole;
    }
    match (first.is_empty(), last.is_empty()) {
        (true, true) => RequestedRange::Whole,
        (true, false) => match size - number(last).min(size) {
            start if start == size => RequestedRange::Unsatisfiable,
            start => RequestedRange::Satisfiable(start..size),
        },
        (false, true) if number(first) >= size => RequestedRange::Unsatisfiable,
        (false, true) => RequestedRange::Satisfiable(number(first)..size),
        (false, false) if is_greater(first, last) => RequestedRange::Whole,
        (false, false) if number(first) >= size => RequestedRange::Unsatisfiable,
        (false, false) => RequestedRange::Satisfiable(number(first)..number(last).min(size - 1) + 1),
    }
}

fn number(digits: &str) -> u64 {
    let add = |sum: u64, digit: u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    digits.bytes().fold(0, add)
}

fn is_greater(first: &str, last: &str) -> bool {
    let (first, last) = (first.trim_start_matches('0'), last.trim_start_matches('0'));
    (first.len(), first) > (last.len(), last)
}
