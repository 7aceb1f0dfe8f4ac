//! Times in RFC 3339 format.

use osproxy_core::{Error, Result};
pub(super) use osproxy_types::timestamp::rfc3339 as format_time;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

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
    fn formatted_times_parse_back() {
        for ms in [0, -1, 1_795_348_800_007] {
            assert_eq!(parse_time("x", &format_time(ms)).unwrap(), ms);
        }
        assert_eq!(parse_time("x", "2026-11-22T13:00:00.0079+01:00").unwrap(), 1_795_348_800_007);
        for wrong in ["", "now", "2026-11-22", "2026-11-22T12:00:00", "1795348800"] {
            assert!(parse_time("x", wrong).is_err(), "{wrong}");
        }
    }
}
