//! How people write a number of bytes.

/// What may stand behind the number, and what it stands for.
const UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
];

/// Reads a whole number of bytes, or of a unit of them.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let with_unit = UNITS.iter().find_map(|(unit, size)| Some((lower.strip_suffix(unit)?, *size)));
    let (number, size) = with_unit.unwrap_or((&lower, 1));
    let number = number.trim_end();
    let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    let bytes = number.parse::<u64>().ok().filter(|_| is_number).and_then(|number| number.checked_mul(size));
    bytes.ok_or_else(|| "a whole number of bytes, KiB, MiB or GiB is needed, such as 50MiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn bytes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1000000", 1_000_000),
            ("50MiB", 50 << 20),
            ("50 mib", 50 << 20),
            ("3K", 3 << 10),
            ("2kB", 2_000),
            ("1MB", 1_000_000),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "+1", "1.5MiB", "5 apples", "99999999999GiB", "5MiB/s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
