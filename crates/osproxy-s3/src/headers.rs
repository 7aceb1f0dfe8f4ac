//! Checks of headers and queries that `s3s` does not make as AWS does.

use axum::http::{HeaderMap, Method, header, request::Parts};
use base64::{Engine, prelude::BASE64_STANDARD};
use s3s::{S3Result, dto::StorageClass, s3_error};

use crate::checksums::Algorithm;

/// Prefix of the headers with a checksum.
const CHECKSUM: &str = "x-amz-checksum-";
/// Headers with this prefix that are no checksums.
const ABOUT_CHECKSUMS: [&str; 3] = ["algorithm", "type", "mode"];
/// Headers that say what a copy takes from its source.
const DIRECTIVES: [&str; 2] = ["x-amz-metadata-directive", "x-amz-tagging-directive"];
/// All storage classes. They change nothing.
const STORAGE_CLASSES: [&str; 12] = [
    StorageClass::STANDARD,
    StorageClass::STANDARD_IA,
    StorageClass::ONEZONE_IA,
    StorageClass::INTELLIGENT_TIERING,
    StorageClass::GLACIER,
    StorageClass::GLACIER_IR,
    StorageClass::DEEP_ARCHIVE,
    StorageClass::REDUCED_REDUNDANCY,
    StorageClass::OUTPOSTS,
    StorageClass::SNOW,
    StorageClass::EXPRESS_ONEZONE,
    "FSX_OPENZFS",
];

/// Refuses requests whose headers or query AWS refuses.
pub(crate) fn check(head: &Parts) -> S3Result<()> {
    let headers = &head.headers;
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"));
    for name in DIRECTIVES {
        if text(name).is_some_and(|directive| !["COPY", "REPLACE"].contains(&directive)) {
            return Err(s3_error!(InvalidArgument, "Unknown {name}"));
        }
    }
    if text("x-amz-storage-class").is_some_and(|class| !STORAGE_CLASSES.contains(&class)) {
        return Err(s3_error!(InvalidStorageClass, "The storage class you specified is not valid"));
    }
    if text("content-md5").is_some_and(|md5| decoded_length(md5) != Some(16)) {
        return Err(s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid."));
    }
    let query: Vec<_> = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).collect();
    let value = |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| &**value);
    if head.method == Method::GET && value("list-type").is_some_and(|version| version != "2") {
        return Err(s3_error!(InvalidArgument, "Invalid List Type"));
    }
    check_checksums(headers)
}

fn check_checksums(headers: &HeaderMap) -> S3Result<()> {
    let named = headers.get("x-amz-sdk-checksum-algorithm").map(|name| name.to_str().unwrap_or_default());
    if named.is_some_and(|name| Algorithm::parse(name).is_none()) {
        return Err(s3_error!(InvalidRequest, "Value for x-amz-sdk-checksum-algorithm header is invalid."));
    }
    let sent = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix(CHECKSUM)?;
        (!ABOUT_CHECKSUMS.contains(&name)).then_some((name, value))
    });
    let sent: Vec<_> = sent.collect();
    if sent.len() > 1 {
        return Err(s3_error!(InvalidRequest, "Expecting a single x-amz-checksum- header."));
    }
    for (name, value) in sent {
        let invalid = || s3_error!(InvalidRequest, "Value for {CHECKSUM}{name} header is invalid.");
        let algorithm = Algorithm::parse(name).ok_or_else(invalid)?;
        let value = value.to_str().map_err(|_| invalid())?;
        // A checksum of checksums ends with the number of parts.
        let sum = value.split_once('-').map_or(value, |(sum, _)| sum);
        if decoded_length(sum) != Some(algorithm.length()) {
            return Err(invalid());
        }
    }
    Ok(())
}

/// The number of bytes that `text` encodes; `None` if it is no Base64.
fn decoded_length(text: &str) -> Option<usize> {
    BASE64_STANDARD.decode(text).ok().map(|bytes| bytes.len())
}

/// Whether a signed request deletes several objects. Its body must have a digest.
pub(crate) fn is_multi_delete(head: &Parts) -> bool {
    let query = head.uri.query().unwrap_or_default().as_bytes();
    let has = |wanted: &str| form_urlencoded::parse(query).any(|(name, _)| name == wanted);
    let is_signed = head.headers.contains_key(header::AUTHORIZATION) || has("X-Amz-Signature");
    head.method == Method::POST && is_signed && has("delete")
}

/// Whether a request completes a multipart upload.
pub(crate) fn completes_upload(head: &Parts) -> bool {
    let query = head.uri.query().unwrap_or_default().as_bytes();
    head.method == Method::POST && form_urlencoded::parse(query).any(|(name, _)| name == "uploadId")
}

/// Whether the body of a request is a form.
pub(crate) fn is_form(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(header::HeaderValue::as_bytes);
    content_type.is_some_and(|it| it.to_ascii_lowercase().starts_with(b"multipart/form-data"))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn refusal(uri: &str, headers: &[(&str, &str)]) -> Option<String> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        check(&head).err().map(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn headers_are_checked_as_aws_does() {
        let refused = |headers: &[_], code: &str| assert_eq!(refusal("/b/k", headers).as_deref(), Some(code));
        refused(&[("x-amz-metadata-directive", "WRONG")], "InvalidArgument");
        refused(&[("x-amz-storage-class", "standard")], "InvalidStorageClass");
        refused(&[("content-md5", "")], "InvalidDigest");
        refused(&[("content-md5", "AAAA")], "InvalidDigest");
        refused(&[("x-amz-checksum-crc32", "")], "InvalidRequest");
        refused(&[("x-amz-checksum-md4", "AAAAAA==")], "InvalidRequest");
        refused(&[("x-amz-sdk-checksum-algorithm", "MD4")], "InvalidRequest");
        let crc32 = ("x-amz-checksum-crc32", "AAAAAA==");
        refused(&[crc32, ("x-amz-checksum-crc32c", "AAAAAA==")], "InvalidRequest");
        assert_eq!(refusal("/b?list-type=3", &[]).as_deref(), Some("InvalidArgument"));
        for fine in [
            &[crc32, ("x-amz-checksum-mode", "ENABLED")][..],
            &[("x-amz-checksum-crc32", "AAAAAA==-3"), ("x-amz-checksum-type", "COMPOSITE")],
            &[("x-amz-tagging-directive", "REPLACE"), ("x-amz-storage-class", "GLACIER_IR")],
            &[("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="), ("x-amz-sdk-checksum-algorithm", "CRC32")],
        ] {
            assert_eq!(refusal("/b?list-type=2", fine), None, "{fine:?}");
        }
    }
}
