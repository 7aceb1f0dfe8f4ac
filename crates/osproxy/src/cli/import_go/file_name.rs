//! File names as the Go program recorded them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Characters that Go's `url.PathEscape` encodes.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b':')
    .remove(b'=')
    .remove(b'@');

/// Decodes a recorded name. The Go program encoded the names that clients sent, except for instant
/// uploads. Some clients sent names that were already encoded. The second value is `true` for such
/// a name, which was then encoded twice. Text that is not a valid encoding stays unchanged.
pub(super) fn decode_name(recorded: &str) -> (String, bool) {
    let once = unescape(recorded);
    let twice = unescape(&once);
    let was_escaped = twice != once && utf8_percent_encode(&twice, ESCAPED).to_string() == once;
    if was_escaped { (twice, true) } else { (once, false) }
}

fn unescape(name: &str) -> String {
    percent_decode_str(name).decode_utf8().map_or_else(|_| name.to_owned(), std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_were_encoded_twice_are_decoded_twice() {
        for (recorded, name, twice) in [
            ("plain.txt", "plain.txt", false),
            ("a%20b.txt", "a b.txt", false),
            ("%E6%8A%A5%E5%91%8A.pdf", "报告.pdf", false),
            ("%25E6%258A%25A5%25E5%2591%258A.pdf", "报告.pdf", true),
            ("a%2520b.txt", "a b.txt", true),
            // Names of instant uploads.
            ("报告 1.pdf", "报告 1.pdf", false),
            ("100%.txt", "100%.txt", false),
            // Not UTF-8.
            ("%ff%fe.bin", "%ff%fe.bin", false),
            // A client would have encoded these names differently.
            ("50%25%20off.txt", "50% off.txt", false),
            ("a%2541.txt", "a%41.txt", false),
        ] {
            assert_eq!(decode_name(recorded), (name.to_owned(), twice), "{recorded}");
        }
    }
}
