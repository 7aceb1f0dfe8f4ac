//! The header `Content-Disposition`.

use percent_encoding::percent_decode_str;

/// Returns the file name, if there is one. `filename*` takes precedence over `filename`.
pub fn file_name(disposition: &[u8]) -> Option<String> {
    let extended = parameter(disposition, "filename*").and_then(|value| decode_extended(&value));
    extended.or_else(|| String::from_utf8(parameter(disposition, "filename")?).ok())
}

/// Decodes a value of the form `UTF-8'language'percent-encoded` (RFC 8187).
fn decode_extended(value: &[u8]) -> Option<String> {
    let mut parts = str::from_utf8(value).ok()?.splitn(3, '\'');
    let (charset, _, text) = (parts.next()?, parts.next()?, parts.next()?);
    let text = percent_decode_str(text).decode_utf8().ok()?;
    charset.eq_ignore_ascii_case("utf-8").then(|| text.into_owned())
}

/// Returns the first parameter with this name.
pub(crate) fn parameter(mut disposition: &[u8], wanted: &str) -> Option<Vec<u8>> {
    // The type ends at the first semicolon; so does each parameter, unless it is in quotes.
    loop {
        let start = disposition.iter().position(|byte| *byte == b';')? + 1;
        disposition = disposition.get(start..)?.trim_ascii_start();
        let assign = disposition.iter().position(|byte| *byte == b'=' || *byte == b';')?;
        if disposition.get(assign) == Some(&b';') {
            continue;
        }
        let (name, value) = disposition.split_at(assign);
        let (value, rest) = parameter_value(value.get(1..)?.trim_ascii_start())?;
        if name.trim_ascii_end().eq_ignore_ascii_case(wanted.as_bytes()) {
            return Some(value);
        }
        disposition = rest;
    }
}

/// Splits a parameter value, with or without quotes, from what follows. `None` if a quote is not
/// closed.
fn parameter_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| *byte == b';').unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return Some((value.trim_ascii_end().to_vec(), rest));
    };
    let (mut value, mut bytes) = (Vec::new(), quoted.iter().enumerate());
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, quoted.get(at + 1..)?)),
            // Browsers escape quotes as %22, and do not escape backslashes, which occur in names of
            // files. So only an escaped quote or backslash is one.
            b'\\' if matches!(quoted.get(at + 1), Some(b'"' | b'\\')) => {
                value.extend(bytes.next().map(|(_, escaped)| *escaped));
            }
            byte => value.push(*byte),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found() {
        for (disposition, name) in [
            ("form-data; name=\"file\"", Some("file")),
            ("form-data;name=file", Some("file")),
            ("form-data; filename=\"name=x; y\"; name = \"file\"", Some("file")),
            ("form-data; filename=\"a\\\"; name=x\"; NAME=file ; z=1", Some("file")),
            ("form-data; filename=\"C:\\x\\y.txt\"; name=\"file\"", Some("file")),
            ("form-data; flag; name=\"\"", Some("")),
            ("form-data; filename*=UTF-8''x; name=\"q\\\"\\\\\"", Some("q\"\\")),
            ("form-data", None),
            ("form-data; filename=file", None),
            ("form-data; name", None),
            ("form-data; name=\"file", None),
            ("", None),
        ] {
            let found = parameter(disposition.as_bytes(), "name");
            assert_eq!(found.as_deref(), name.map(str::as_bytes), "{disposition}");
        }
    }

    #[test]
    fn file_names_are_decoded() {
        for (disposition, name) in [
            ("inline; filename=\"a b.jpg\"", Some("a b.jpg")),
            ("inline; filename=\"x\"; filename*=UTF-8''%E2%82%AC%20rates", Some("€ rates")),
            ("attachment; filename*=utf-8'en'a%27b", Some("a'b")),
            ("inline; filename=\"x\"; filename*=iso-8859-1'en'%A3", Some("x")),
            ("inline; filename=\"x\"; filename*=UTF-8''%ff", Some("x")),
            ("inline; filename=\"x\"; filename*=y", Some("x")),
            ("inline; filename*=y", None),
            ("inline", None),
        ] {
            assert_eq!(file_name(disposition.as_bytes()).as_deref(), name, "{disposition}");
        }
    }
}
