//! What content is, and what a browser would do with it.

/// How many bytes from the beginning of a file are looked at.
pub const HEAD: usize = 4096;

/// What is assumed of content that nothing is known about.
const UNKNOWN: &str = "application/octet-stream";

/// Types that say how content is packed, not what it is: a more telling extension wins.
const CONTAINERS: [&str; 4] =
    ["application/zip", "text/xml", "application/x-ole-storage", "application/gzip"];

/// The MIME type that the first bytes of content speak of, if they do.
pub fn sniff(head: &[u8]) -> Option<&'static str> {
    infer::get(head).map(|kind| kind.mime_type())
}

/// The MIME type of a file: what its content speaks of, falling back on the extension of its name.
pub fn of_file(sniffed: Option<&str>, name: &str) -> String {
    let by_name = mime_guess::from_path(name).first_raw();
    let detected = match (sniffed, by_name) {
        (Some(content), Some(name)) if CONTAINERS.contains(&content) => name,
        (Some(content), _) => content,
        (None, Some(name)) => name,
        (None, None) => UNKNOWN,
    };
    detected.to_owned()
}

/// Whether a MIME type is the one that is wanted, or of the family that is, such as `image/*`. Parameters don't count.
pub fn fits(wanted: &str, content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    match wanted.strip_suffix('*') {
        Some(family) => essence.get(..family.len()).is_some_and(|it| it.eq_ignore_ascii_case(family)),
        None => essence.eq_ignore_ascii_case(wanted),
    }
}

/// Whether a browser that opens content of this type runs what is written in it, with the rights of our origin.
pub fn is_active(content_type: &str) -> bool {
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
        of_file(sniff(head), name)
    }

    #[test]
    fn content_counts_more_than_the_name() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        assert_eq!(detect(png, "page.html"), "image/png");
        assert_eq!(detect(b"<!DOCTYPE html><p>", "picture.png"), "text/html");
        assert_eq!(detect(b"plain words", "notes.txt"), "text/plain");
        assert_eq!(detect(b"plain words", "notes"), UNKNOWN);
        assert_eq!(detect(b"", "empty.json"), "application/json");
    }

    #[test]
    fn a_telling_extension_counts_more_than_a_container() {
        assert_eq!(detect(b"<?xml version=\"1.0\"?><svg/>", "x.svg"), "image/svg+xml");
        assert_eq!(detect(b"PK\x03\x04rest of an archive", "x.zip"), "application/zip");
    }

    #[test]
    fn what_browsers_run_is_known() {
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
            assert!(is_active(active), "{active}");
        }
        for passive in
            ["text/plain", "image/png", "video/mp4", "application/pdf", "application/json", UNKNOWN]
        {
            assert!(!is_active(passive), "{passive}");
        }
    }
}
