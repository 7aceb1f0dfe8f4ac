//! Detects the MIME type of content, and whether browsers may execute scripts in it.

use std::borrow::Cow;

/// Number of leading bytes that are searched for a known file signature.
pub const HEAD: usize = 4096;

/// The MIME type of unrecognised content.
const UNKNOWN: &str = "application/octet-stream";

/// MIME types of container formats. Many file formats share a container format, so for these types
/// a known file name extension decides.
const CONTAINERS: [&str; 4] =
    ["application/zip", "text/xml", "application/x-ole-storage", "application/gzip"];

/// Suffix of a text type whose content is UTF-8.
const UTF8: &str = "; charset=utf-8";

/// Minimum size, in bytes, of content that can be one part of a larger text. Content of at least
/// this size counts as UTF-8 even if it ends inside a character.
const MAY_BE_CUT_SIZE: usize = 64 << 10;

/// The MIME type of text that has no known file signature. The file name extension decides which
/// kind of text it is.
const TEXT: &str = "text/plain";

/// Detects the MIME type of streamed content. Looks for a file signature in the first bytes, and
/// checks whether all bytes are UTF-8.
#[derive(Debug, Default)]
pub struct Sniffer {
    head: Vec<u8>,
    size: usize,
    is_not_text: bool,
    /// An incomplete character at the end of the bytes seen so far.
    incomplete_char: Vec<u8>,
}

impl Sniffer {
    /// Processes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size = self.size.saturating_add(bytes.len());
        let len = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(bytes.get(..len).unwrap_or_default());
        let mut rest = bytes;
        while !self.is_not_text
            && !self.incomplete_char.is_empty()
            && let Some((next, tail)) = rest.split_first()
        {
            self.incomplete_char.push(*next);
            rest = tail;
            match str::from_utf8(&self.incomplete_char) {
                Ok(_) => self.incomplete_char.clear(),
                Err(error) => self.is_not_text = error.error_len().is_some(),
            }
        }
        if self.is_not_text {
            return;
        }
        match str::from_utf8(rest) {
            // ASCII text in UTF-16 is also valid UTF-8, but contains NUL characters. Real UTF-8
            // text contains none.
            Ok(text) => self.is_not_text = text.contains('\0'),
            Err(error) if error.error_len().is_none() => {
                let (text, cut) = rest.split_at(error.valid_up_to());
                self.is_not_text = text.contains(&0);
                self.incomplete_char.extend_from_slice(cut);
            }
            Err(_) => self.is_not_text = true,
        }
    }

    /// Returns the type to record, or `None` for binary content of an unknown type. Text types get
    /// the suffix `; charset=utf-8` if all bytes are UTF-8.
    pub fn finish(self) -> Option<&'static str> {
        let sniffed = sniff(&self.head);
        if self.is_not_text || !(self.incomplete_char.is_empty() || self.size >= MAY_BE_CUT_SIZE) {
            return sniffed;
        }
        match sniffed {
            None => Some("text/plain; charset=utf-8"),
            Some("text/html") => Some("text/html; charset=utf-8"),
            Some("text/xml") => Some("text/xml; charset=utf-8"),
            Some("text/x-shellscript") => Some("text/x-shellscript; charset=utf-8"),
            other => other,
        }
    }
}

/// Returns the MIME type for the file signature in `head`; `None` if the signature is not known.
/// Never returns plain text, because the bytes after `head` may be binary.
pub fn sniff(head: &[u8]) -> Option<&'static str> {
    infer::get(head).map(|kind| kind.mime_type())
}

/// Whether the detected type is known and is not plain text. Plain text is not specific, because
/// content that begins as plain text may continue as binary data.
pub fn is_specific(sniffed: Option<&str>) -> bool {
    sniffed.is_some_and(|sniffed| sniffed.strip_suffix(UTF8).unwrap_or(sniffed) != TEXT)
}

/// Whether the detected type is a container format, in which many other formats are stored.
pub fn is_container(sniffed: &str) -> bool {
    CONTAINERS.contains(&sniffed)
}

/// Whether the content is UTF-8 according to its recorded type.
pub fn is_utf8(sniffed: Option<&str>) -> bool {
    sniffed.is_some_and(|sniffed| sniffed.ends_with(UTF8))
}

/// Appends `; charset=utf-8` to a text type if the content is UTF-8 and the type has no charset.
pub fn with_charset(content_type: &str, is_utf8: bool) -> Cow<'_, str> {
    let lower = content_type.to_ascii_lowercase();
    if is_utf8 && lower.starts_with("text/") && !lower.contains("charset") {
        return format!("{content_type}{UTF8}").into();
    }
    content_type.into()
}

/// Returns the MIME type of a file. This is the type detected in the content, if it is neither
/// plain text nor a container format. Otherwise, the file name extension decides. For an unknown
/// extension, returns the container format if one was detected, or else `application/octet-stream`.
pub fn mime_type_of(sniffed: Option<&str>, name: &str) -> String {
    let by_name = mime_guess::from_path(name).first_raw();
    let sniffed = sniffed.map(|recorded| recorded.strip_suffix(UTF8).unwrap_or(recorded));
    let sniffed = sniffed.filter(|sniffed| *sniffed != TEXT);
    let detected = match (sniffed, by_name) {
        (Some(content), Some(name)) if CONTAINERS.contains(&content) => name,
        (Some(content), _) => content,
        (None, Some(name)) => name,
        (None, None) => UNKNOWN,
    };
    detected.to_owned()
}

/// Whether a MIME type matches one of the comma-separated `patterns`: it equals the pattern or belongs
/// to the family of the pattern, such as `image/*`. Ignores parameters, such as `; charset=utf-8`.
pub fn matches_pattern(patterns: &str, content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    patterns.split(',').any(|pattern| match pattern.strip_suffix('*') {
        Some(family) => essence.get(..family.len()).is_some_and(|it| it.eq_ignore_ascii_case(family)),
        None => essence.eq_ignore_ascii_case(pattern),
    })
}

/// Whether browsers may execute scripts in content of this type, with the privileges of the origin
/// of the service.
pub fn may_execute_scripts(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let markup = essence.contains("html") || essence.ends_with("xml") || essence.ends_with("xsl");
    markup
        || essence.contains("script")
        || essence.contains("flash")
        || essence.contains("java")
        || essence.starts_with("multipart/")
        || essence.starts_with("message/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(head: &[u8], name: &str) -> String {
        let mut sniffer = Sniffer::default();
        sniffer.update(head);
        mime_type_of(sniffer.finish(), name)
    }

    fn sniff<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let mut sniffer = Sniffer::default();
        chunks.into_iter().for_each(|chunk| sniffer.update(chunk));
        is_utf8(sniffer.finish())
    }

    #[test]
    fn content_is_text_only_if_all_bytes_are_utf8() {
        let text = "Grüße, 漢字, 🦀\n".repeat(1000);
        for size in [1, 2, 3, 7, 4096, 100_000] {
            assert!(sniff(text.as_bytes().chunks(size)), "{size}");
        }
        let latin1 = |text: &str| text.chars().map(|letter| letter as u8).collect::<Vec<_>>();
        let late = [&b"words ".repeat(2000)[..], &latin1("Grüße")].concat();
        let utf16: Vec<_> = "words".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for binary in [&latin1("Grüße")[..], &late, &utf16, b"\xff\xfeG\0", b"a\0b", b"\xe6\xbc", b"\xc0\x80"]
        {
            for size in [1, 5, 4096] {
                assert!(!sniff(binary.chunks(size)), "{binary:?}");
            }
        }
        // A long part may end inside a character. The same incomplete character is invalid if more
        // bytes follow.
        let part = [&b"words ".repeat(20_000)[..], b"\xe6\xbc"].concat();
        assert!(sniff([&part[..]]) && !sniff([&part[..], b" "]));
        assert!(sniff([]));
    }

    #[test]
    fn only_text_without_a_charset_gets_one() {
        for (content_type, is_utf8, expected) in [
            ("text/plain", true, "text/plain; charset=utf-8"),
            ("text/csv", true, "text/csv; charset=utf-8"),
            ("TEXT/markdown; variant=GFM", true, "TEXT/markdown; variant=GFM; charset=utf-8"),
            ("text/plain", false, "text/plain"),
            ("text/plain; Charset=iso-8859-1", true, "text/plain; Charset=iso-8859-1"),
            ("application/json", true, "application/json"),
            ("image/png", true, "image/png"),
        ] {
            assert_eq!(with_charset(content_type, is_utf8), expected);
        }
    }

    #[test]
    fn the_content_decides_before_the_name() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        assert_eq!(detect(png, "page.html"), "image/png");
        assert_eq!(detect(b"<!DOCTYPE html><p>", "picture.png"), "text/html");
        assert_eq!(detect(b"plain words", "notes.txt"), "text/plain");
        assert_eq!(detect(b"plain words", "notes"), UNKNOWN);
        assert_eq!(detect(b"", "empty.json"), "application/json");
    }

    #[test]
    fn the_extension_decides_within_a_container_format() {
        assert_eq!(detect(b"<?xml version=\"1.0\"?><svg/>", "x.svg"), "image/svg+xml");
        assert_eq!(detect(b"PK\x03\x04rest of an archive", "x.zip"), "application/zip");
    }

    #[test]
    fn types_with_scripts_are_known() {
        for active in [
            "text/html",
            "TEXT/HTML; charset=utf-8",
            "application/xhtml+xml",
            "image/svg+xml",
            "text/xml",
            "application/xml",
            "text/xsl",
            "text/javascript",
            "multipart/related",
            "message/rfc822",
            "application/x-shockwave-flash",
            "application/mathml+xml",
            "application/java-archive",
        ] {
            assert!(may_execute_scripts(active), "{active}");
        }
        for passive in
            ["text/plain", "image/png", "video/mp4", "application/pdf", "application/json", UNKNOWN]
        {
            assert!(!may_execute_scripts(passive), "{passive}");
        }
    }
}
