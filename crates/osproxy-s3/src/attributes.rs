//! What is recorded about an object besides its content: headers, tags and checksums.

use std::collections::BTreeMap;

use s3s::{
    S3Result,
    dto::{Checksum, ChecksumType, Expires, Tag, Timestamp, TimestampFormat},
    s3_error,
};
use serde::{Deserialize, Serialize};

use crate::{
    checksums::{self, ALGORITHMS, UploadChecksum},
    parts::PartList,
};

/// Maximum number of tags of an object.
const MAX_TAGS: usize = 10;
/// Maximum length of the key and of the value of a tag, in characters.
const MAX_TAG_KEY: usize = 128;
const MAX_TAG_VALUE: usize = 256;
/// Maximum size of the names and values of the content headers, in bytes.
const MAX_HEADERS: usize = 2048;

/// Attributes as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Attributes {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_control: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_language: Option<String>,
    /// An HTTP date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, String>,
    /// Names and values, in base64, of the checksums of the whole content.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) checksums: BTreeMap<String, String>,
    /// The checksum that was chosen for a multipart upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upload_checksum: Option<UploadChecksum>,
    /// The parts of a multipart upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parts: Option<PartList>,
}

impl Attributes {
    /// Parses stored attributes.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// Returns the attributes as text to store; `None` if there are none.
    pub(crate) fn to_text(&self) -> Option<String> {
        if *self == Self::default() { None } else { serde_json::to_string(self).ok() }
    }

    /// Fails with `MetadataTooLarge` if the headers are too large.
    pub(crate) fn check_headers(&self) -> S3Result<()> {
        let named = [
            ("cache-control", &self.cache_control),
            ("content-disposition", &self.content_disposition),
            ("content-encoding", &self.content_encoding),
            ("content-language", &self.content_language),
            ("expires", &self.expires),
        ];
        let sizes = named.iter().filter_map(|(name, value)| Some(name.len() + value.as_ref()?.len()));
        if sizes.sum::<usize>() <= MAX_HEADERS {
            return Ok(());
        }
        Err(s3_error!(MetadataTooLarge, "The content headers exceed the maximum size of {MAX_HEADERS} bytes"))
    }

    pub(crate) fn set_expires(&mut self, expires: Option<&Expires>) {
        let mut text = Vec::new();
        let formatted = expires.and_then(|at| at.format(TimestampFormat::HttpDate, &mut text).ok());
        self.expires = formatted.and_then(|()| String::from_utf8(text).ok());
    }

    pub(crate) fn expires(&self) -> Option<Expires> {
        self.expires.as_deref().and_then(|text| Timestamp::parse(TimestampFormat::HttpDate, text).ok())
    }

    pub(crate) fn set_checksums(&mut self, sums: &Checksum) {
        let known = ALGORITHMS.into_iter();
        let known = known.filter_map(|it| Some((it.name().to_owned(), checksums::get(sums, it)?.to_owned())));
        self.checksums = known.collect();
    }

    /// Parses checksums of a part as [`checksums_to_text`](Self::checksums_to_text) writes them.
    pub(crate) fn parse_checksums(text: Option<&str>) -> Checksum {
        let checksums = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Self { checksums, ..Self::default() }.checksums()
    }

    /// Returns the checksums alone as text to store.
    pub(crate) fn checksums_to_text(&self) -> String {
        serde_json::json!(self.checksums).to_string()
    }

    /// The checksums of the whole content.
    pub(crate) fn checksums(&self) -> Checksum {
        let sum = |name: &str| self.checksums.get(name).cloned();
        let whole = || ChecksumType::from_static(ChecksumType::FULL_OBJECT);
        let kind = self.upload_checksum.map_or_else(whole, UploadChecksum::kind);
        let is_known = !self.checksums.is_empty();
        Checksum {
            checksum_crc32: sum("crc32"),
            checksum_crc32c: sum("crc32c"),
            checksum_crc64nvme: sum("crc64nvme"),
            checksum_sha1: sum("sha1"),
            checksum_sha256: sum("sha256"),
            checksum_type: is_known.then_some(kind),
        }
    }

    pub(crate) fn tag_set(&self) -> Vec<Tag> {
        let tag =
            |(key, value): (&String, &String)| Tag { key: Some(key.clone()), value: Some(value.clone()) };
        self.tags.iter().map(tag).collect()
    }
}

/// Parses tags that have the form of a query, as in the header `x-amz-tagging`.
pub(crate) fn parse_tags(header: Option<&str>) -> S3Result<BTreeMap<String, String>> {
    let pairs = form_urlencoded::parse(header.unwrap_or_default().as_bytes()).into_owned();
    check_tags(pairs)
}

/// Checks tags. Fails with `InvalidTag`.
pub(crate) fn check_tags(
    pairs: impl Iterator<Item = (String, String)>,
) -> S3Result<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    for (key, value) in pairs {
        let is_allowed = (1..=MAX_TAG_KEY).contains(&key.chars().count())
            && value.chars().count() <= MAX_TAG_VALUE
            && !key.starts_with("aws:");
        if !is_allowed {
            return Err(s3_error!(InvalidTag, "The tag key or value you have provided is invalid"));
        }
        if tags.insert(key, value).is_some() {
            return Err(s3_error!(InvalidTag, "Cannot provide multiple Tags with the same key"));
        }
    }
    if tags.len() > MAX_TAGS {
        return Err(s3_error!(InvalidTag, "Object tags cannot be greater than 10"));
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_storage() {
        let mut attributes = Attributes::default();
        assert_eq!(attributes.to_text(), None);
        attributes.cache_control = Some("no-cache".to_owned());
        attributes.tags = parse_tags(Some("a=1&b=x%20y&c=")).unwrap();
        attributes
            .set_checksums(&Checksum { checksum_crc32: Some("AAAAAA==".to_owned()), ..Checksum::default() });
        let at = Timestamp::parse(TimestampFormat::HttpDate, "Thu, 01 Jan 2026 00:00:00 GMT").unwrap();
        attributes.set_expires(Some(&at));
        let stored = Attributes::parse(attributes.to_text().as_deref());
        assert_eq!(stored, attributes);
        assert_eq!((stored.expires(), stored.tags["b"].as_str()), (Some(at), "x y"));
        assert_eq!(stored.checksums().checksum_crc32.as_deref(), Some("AAAAAA=="));
    }

    #[test]
    fn headers_are_limited() {
        let of = |length| Attributes { cache_control: Some("x".repeat(length)), ..Attributes::default() };
        assert!(of(2035).check_headers().is_ok());
        let both = Attributes { content_language: Some("de".to_owned()), ..of(2030) };
        for too_large in [of(2036), both] {
            assert_eq!(*too_large.check_headers().unwrap_err().code(), s3s::S3ErrorCode::MetadataTooLarge);
        }
    }

    #[test]
    fn tags_are_limited() {
        for bad in
            ["=1", "a=1&a=2", "aws:x=1", &format!("{}=1", "k".repeat(129)), &format!("k={}", "v".repeat(257))]
        {
            assert!(parse_tags(Some(bad)).is_err(), "{bad}");
        }
        let many: Vec<_> = (0..11).map(|number| format!("k{number}=v")).collect();
        assert!(parse_tags(Some(&many.join("&"))).is_err());
        assert_eq!(parse_tags(None).unwrap().len(), 0);
    }
}
