//! Times in RFC 3339 format.

use osproxy_core::{Error, Result};
use time::{
    OffsetDateTime, UtcOffset,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::format_description,
};

const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Formats milliseconds since the Unix epoch according to RFC 3339, always in UTC with three
/// decimals.
pub(super) fn format_time(ms: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    // Times after the year 9999 mean "never", and are formatted as the last millisecond of that
    // year.
    let time = time.unwrap_or(time::macros::datetime!(9999-12-31 23:59:59.999 UTC));
    time.to_offset(UtcOffset::UTC).format(FORMAT).unwrap_or_default()
}

/// Parses a time in any UTC offset. Returns milliseconds since the Unix epoch, rounded down.
pub(super) fn parse_time(name: &str, text: &str) -> Result<i64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        Error::invalid(format!("`{name}` must be a time in RFC 3339 format, such as 2026-11-22T12:00:00Z"))
            .with_field(name)
    })?;
    Ok(i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_format_and_parse_back() {
        assert_eq!(format_time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_time(1_795_348_800_007), "2026-11-22T12:00:00.007Z");
        assert_eq!(format_time(i64::MAX), "9999-12-31T23:59:59.999Z");
        for ms in [0, -1, 1_795_348_800_007] {
            assert_eq!(parse_time("x", &format_time(ms)).unwrap(), ms);
        }
        assert_eq!(parse_time("x", "2026-11-22T13:00:00.0079+01:00").unwrap(), 1_795_348_800_007);
        for wrong in ["", "now", "2026-11-22", "2026-11-22T12:00:00", "1795348800"] {
            assert!(parse_time("x", wrong).is_err(), "{wrong}");
        }
    }
}
