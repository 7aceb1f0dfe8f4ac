//! The `Content-Disposition` header (RFC 6266).

use axum::http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Characters to escape: all except the `attr-char` of RFC 8187.
const ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// What a browser should do with content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Display the content.
    Inline,
    /// Save the content as a file.
    Attachment,
}

/// Returns the header for any file name. `filename*` holds the exact name, encoded; `filename`
/// holds an ASCII approximation for old clients.
pub(crate) fn header(disposition: Disposition, name: &str) -> HeaderValue {
    let disposition = match disposition {
        Disposition::Inline => "inline",
        Disposition::Attachment => "attachment",
    };
    let to_ascii = |c: char| match c {
        '"' | '\\' | '%' | '/' => '_',
        ' '..='~' => c,
        _ => '_',
    };
    let fallback: String = name.chars().map(to_ascii).collect();
    let encoded = utf8_percent_encode(name, ATTR_CHAR);
    let field = format!("{disposition}; filename=\"{fallback}\"; filename*=UTF-8''{encoded}");
    // Cannot fail: the value is printable ASCII.
    HeaderValue::try_from(field).unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_escaped() {
        let field = header(Disposition::Inline, "n\"a\r\nSet-Cookie: x=1; é.txt");
        assert_eq!(
            field.to_str().unwrap(),
            "inline; filename=\"n_a__Set-Cookie: x=1; _.txt\"; \
             filename*=UTF-8''n%22a%0D%0ASet-Cookie%3A%20x%3D1%3B%20%C3%A9.txt"
        );
    }

    proptest! {
        #[test]
        fn every_name_can_be_decoded(name in "\\PC*|.*") {
            let field = header(Disposition::Attachment, &name);
            let field = field.to_str().unwrap();
            let (_, encoded) = field.split_once("filename*=UTF-8''").unwrap();
            let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8().unwrap();
            prop_assert_eq!(decoded, name);
        }
    }
}
