//! Durations and sizes in settings: plain numbers, or text with units such as `30s` and `8MiB`.

use super::value::{Findings, RawValue, to_small_integer};

/// The base unit of a setting. A number without a unit is in the base unit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    Seconds,
    Bytes,
}

/// Why a duration or size is rejected.
#[derive(Debug, PartialEq)]
enum Mistake {
    /// Invalid syntax, an unknown unit, or a value that is too large.
    Malformed,
    /// Not a whole number of base units.
    Fraction,
}

impl Unit {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }

    /// Describes accepted values in error messages.
    const fn examples(self) -> &'static str {
        match self {
            Self::Seconds => "a duration such as 30s, 5m or 1h",
            Self::Bytes => "a size such as 8MiB or 1GB",
        }
    }

    /// Parses a number with or without a unit.
    fn parse(self, text: &str) -> Result<u64, Mistake> {
        let text = text.trim();
        match text.parse() {
            Ok(number) => Ok(number),
            Err(_) => match self {
                Self::Seconds => parse_duration(text),
                Self::Bytes => parse_size(text),
            },
        }
    }
}

/// Parses a duration with units, and returns the number of seconds.
fn parse_duration(text: &str) -> Result<u64, Mistake> {
    let duration = humantime::parse_duration(text).map_err(|_| Mistake::Malformed)?;
    if duration.subsec_nanos() == 0 { Ok(duration.as_secs()) } else { Err(Mistake::Fraction) }
}

/// Parses a size with a unit, and returns the number of bytes. `ByteSize` is not used, because it
/// rounds fractions and caps large numbers.
fn parse_size(text: &str) -> Result<u64, Mistake> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.strip_prefix(number).and_then(|unit| unit.parse::<bytesize::Unit>().ok());
    let factor = u128::from(unit.ok_or(Mistake::Malformed)? * 1_u64);
    let (whole, decimals) = match number.trim_end().split_once('.') {
        Some((whole, decimals)) if !decimals.is_empty() => (whole, decimals),
        Some(_) => return Err(Mistake::Malformed),
        None => (number.trim_end(), ""),
    };
    let digits = format!("{whole}{decimals}");
    // With at most 19 digits, the product below cannot overflow.
    if whole.is_empty() || digits.len() > 19 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Mistake::Malformed);
    }
    let scaled = digits.parse::<u128>().map_err(|_| Mistake::Malformed)? * factor;
    let divisor = decimals.bytes().fold(1, |divisor: u128, _| divisor * 10);
    if scaled % divisor != 0 {
        return Err(Mistake::Fraction);
    }
    u64::try_from(scaled / divisor).map_err(|_| Mistake::Malformed)
}

/// The type of a setting that is a number of seconds or bytes.
pub(super) trait Quantity: Sized {
    /// Reads a number in `unit`, or text with units. If the value is invalid, records a problem and
    /// returns `None`.
    fn read_as(unit: Unit, node: RawValue, path: &str, findings: &mut Findings) -> Option<Self>;
}

impl Quantity for u64 {
    fn read_as(unit: Unit, node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        let parsed = match &node {
            RawValue::Integer(number) => Self::try_from(*number).map_err(|_| Mistake::Malformed),
            RawValue::Text(text) | RawValue::Untyped(text) => unit.parse(text),
            _ => Err(Mistake::Malformed),
        };
        let (unit_name, found) = (unit.as_str(), node.shown());
        match parsed {
            Ok(number) => return Some(number),
            Err(Mistake::Fraction) => {
                findings.problem(path, format_args!("must be a whole number of {unit_name}, not {found}"));
            }
            Err(Mistake::Malformed) => {
                let examples = unit.examples();
                findings.problem(
                    path,
                    format_args!("must be {examples}, or a whole number of {unit_name}, not {found}"),
                );
            }
        }
        None
    }
}

impl Quantity for u32 {
    fn read_as(unit: Unit, node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        to_small_integer(u64::read_as(unit, node, path, findings)?, path, findings, Self::MAX)
    }
}

impl<T: Quantity> Quantity for Option<T> {
    fn read_as(unit: Unit, node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        match node {
            RawValue::Null => Some(None),
            node => T::read_as(unit, node, path, findings).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::parse;

    #[test]
    fn durations_are_numbers_of_seconds_or_have_units() {
        for (text, seconds) in [
            ("0", 0),
            ("90", 90),
            ("0s", 0),
            ("30s", 30),
            (" 5m ", 300),
            ("1h 30m", 5400),
            ("1h30m", 5400),
            ("1.5h", 5400),
            ("7days", 604_800),
            ("2 weeks", 1_209_600),
            ("2000ms", 2),
        ] {
            assert_eq!(Unit::Seconds.parse(text), Ok(seconds), "{text}");
        }
        for text in ["1500ms", "1.5s", "1s 1ns"] {
            assert_eq!(Unit::Seconds.parse(text), Err(Mistake::Fraction), "{text}");
        }
        for text in ["", " ", "-1", "-5m", "1.5", "5 parsecs", "m", "8MiB", "99999999999999999999s", "1e3"] {
            assert_eq!(Unit::Seconds.parse(text), Err(Mistake::Malformed), "{text}");
        }
    }

    #[test]
    fn sizes_are_numbers_of_bytes_or_have_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("7B", 7),
            ("8MiB", 8 << 20),
            ("5 GiB", 5 << 30),
            ("1GB", 1_000_000_000),
            ("1.5KiB", 1536),
            ("1.1GB", 1_100_000_000),
            ("0.5 kb", 500),
            ("9007199254740993B", 9_007_199_254_740_993),
            ("15EiB", 15 << 60),
        ] {
            assert_eq!(Unit::Bytes.parse(text), Ok(bytes), "{text}");
        }
        for text in ["1.1GiB", "0.5B", "1.0001KB"] {
            assert_eq!(Unit::Bytes.parse(text), Err(Mistake::Fraction), "{text}");
        }
        let malformed = [
            "",
            "-1",
            "-1MiB",
            "+1MiB",
            "MiB",
            ".5MiB",
            "1.MiB",
            "1.2.3MiB",
            "1 2MiB",
            "1.5",
            "5m 3s",
            "5 parsecs",
            "16EiB",
            "99999999999999999999B",
            "1MiB 1KiB",
            "١MiB",
        ];
        for text in malformed {
            assert_eq!(Unit::Bytes.parse(text), Err(Mistake::Malformed), "{text}");
        }
    }

    #[test]
    fn units_are_accepted_from_the_file_and_the_environment() {
        let text = "server: {drain_delay: 1m, idle_timeout: 2h, max_header_bytes: 64KiB}\n\
                    uploads: {max_size: 5 GiB, max_part_size: '1048576'}\nstores: {timeout: '7'}";
        let environment = [
            ("OSPROXY__UPLOADS__MAX_PART_SIZE", "8MiB"),
            ("OSPROXY__CORS__MAX_AGE", "1h 30m"),
            ("OSPROXY__TASKS__LEASE", "45"),
        ];
        let config = parse(text, &environment).unwrap();
        assert_eq!((config.server.drain_delay, config.server.idle_timeout), (Some(60), 7200));
        assert_eq!(config.server.max_header_bytes, 64 << 10);
        assert_eq!((config.uploads.max_size, config.uploads.max_part_size), (5 << 30, 8 << 20));
        assert_eq!((config.stores.timeout, config.cors.max_age, config.tasks.lease), (7, 5400, 45));
        let config = parse("server: {drain_delay: null}", &[("OSPROXY__SERVER__DRAIN_DELAY", "1500 s")]);
        assert_eq!(config.unwrap().server.drain_delay, Some(1500));
        assert_eq!(parse("server: {drain_delay: null}", &[]).unwrap().server.drain_delay, None);
    }

    #[test]
    fn errors_name_what_is_accepted() {
        let duration = "must be a duration such as 30s, 5m or 1h, or a whole number of seconds, not";
        let size = "must be a size such as 8MiB or 1GB, or a whole number of bytes, not";
        for (section, name, written, problem) in [
            ("server", "drain_delay", "soon", format!("{duration} \"soon\"")),
            ("server", "idle_timeout", "-1", format!("{duration} -1")),
            ("server", "idle_timeout", "1.5", format!("{duration} 1.5")),
            ("server", "idle_timeout", "null", format!("{duration} nothing")),
            ("server", "idle_timeout", "[1]", format!("{duration} a list")),
            ("server", "idle_timeout", "1500ms", "must be a whole number of seconds, not \"1500ms\"".into()),
            ("uploads", "max_size", "5x", format!("{size} \"5x\"")),
            ("uploads", "max_size", "1.1GiB", "must be a whole number of bytes, not \"1.1GiB\"".into()),
            ("server", "max_header_bytes", "4GiB", "4294967296 is above 4294967295".into()),
        ] {
            let problems = parse(&format!("{section}: {{{name}: {written}}}"), &[]).unwrap_err();
            assert_eq!(problems, [format!("{section}.{name}: {problem}")]);
        }
        let problems = parse("", &[("OSPROXY__SERVER__DRAIN_DELAY", "-5s")]).unwrap_err();
        assert_eq!(problems, [format!("server.drain_delay: {duration} \"-5s\"")]);
    }
}
