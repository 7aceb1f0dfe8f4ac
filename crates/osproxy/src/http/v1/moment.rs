use time::{OffsetDateTime, UtcOffset, format_description::BorrowedFormatItem, macros::format_description};

const MOMENT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A moment in milliseconds since the Unix epoch, as RFC 3339 has it: always in UTC, always with three decimals.
pub(super) fn moment(ms: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    // Moments beyond the year 9999 stand for "never", and are told as the last one that can be written.
    let moment = moment.unwrap_or(time::macros::datetime!(9999-12-31 23:59:59.999 UTC));
    moment.to_offset(UtcOffset::UTC).format(MOMENT).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_one_form_and_come_back() {
        assert_eq!(moment(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(moment(1_795_348_800_007), "2026-11-22T12:00:00.007Z");
        assert_eq!(moment(i64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
