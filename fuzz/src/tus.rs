//! Headers of tus and of the IETF draft. The first line of an input is `Upload-Metadata`, the second
//! `Upload-Checksum`, the third a structured field, the fourth `Content-Disposition`, the fifth
//! `Upload-Concat`.

use osproxy_core::ops::append_upload::BodyDigest;
use osproxy_http::parsers::{
    resumable::{boolean, file_name, integer},
    tus::{Concat, checksum, concat, format_metadata, metadata},
};

use crate::lines;

/// Metadata that is formatted and parsed again is the same, and a checksum has the length that its
/// algorithm requires. A structured field has one type, and an integer at most 15 digits. Each URL
/// of a partial upload has a name of an upload.
pub(crate) fn check(input: &[u8]) {
    let ([pairs, digest, field, disposition, role], _) = lines::<5>(input);
    if let Ok(parsed) = metadata(pairs) {
        assert!(parsed.pairs.len() <= pairs.split(',').count());
        for found in [&parsed.name, &parsed.content_type].into_iter().flatten() {
            assert!(!found.is_empty() && parsed.pairs.values().any(|value| value == found));
        }
        match format_metadata(&parsed.pairs) {
            Some(text) => assert_eq!(metadata(&text).ok(), Some(parsed), "{text}"),
            // Formatted, the values may be longer than they were sent.
            None => assert!(parsed.pairs.is_empty() || pairs.len() > 4096),
        }
    }
    if let Ok(parsed) = checksum(digest) {
        let (algorithm, size) = match parsed {
            BodyDigest::Md5(_) => ("md5", 16_usize),
            BodyDigest::Sha1(_) => ("sha1", 20),
            BodyDigest::Sha256(_) => ("sha256", 32),
            BodyDigest::Blake3(_) => ("blake3", 32),
        };
        let (name, text) = digest.split_once(' ').unwrap_or_default();
        assert_eq!((name, text.len()), (algorithm, size.div_ceil(3) * 4));
    }
    if let Some(number) = integer(field) {
        assert!(number.unsigned_abs() < 1_000_000_000_000_000);
        assert_eq!((integer(&number.to_string()), boolean(field)), (Some(number), None));
        let digits = field.trim_matches(' ').split(';').next().unwrap_or_default();
        assert_eq!(digits.parse().ok(), Some(number));
    }
    if let Some(value) = boolean(field) {
        assert!(field.trim_matches(' ').starts_with(if value { "?1" } else { "?0" }));
    }
    if let Some(name) = file_name(disposition.as_bytes()) {
        assert!(name.len() < disposition.len());
    }
    if let Ok(Concat::Final(urls)) = concat(role) {
        assert!((1..=250).contains(&urls.len()));
        for url in urls {
            assert!(!url.uid.is_empty() && !url.uid.contains(['/', '?', ' ']));
            assert!(role.contains(&format!("/tus/{}", url.uid)));
        }
    }
}
