//! The header `Upload-Checksum`.

use axum::http::HeaderMap;
use base64::prelude::{BASE64_STANDARD, Engine};
use osproxy_api::tus::CHECKSUM;
use osproxy_core::{Error, Result, ops::append_upload::BodyDigest};

use super::headers::text;

/// The supported algorithms.
pub(super) const ALGORITHMS: &str = "md5,sha1,sha256,blake3";

/// Returns the digest that the body must have, if the request has one. Fails with `InvalidArgument`
/// if the header is malformed or names another algorithm.
pub(super) fn from_headers(headers: &HeaderMap) -> Result<Option<BodyDigest>> {
    text(headers, CHECKSUM)?.map(parse).transpose()
}

/// Parses an algorithm and a Base64 digest, separated by a space.
pub fn parse(header: &str) -> Result<BodyDigest> {
    let (algorithm, digest) = header.split_once(' ').unwrap_or((header, ""));
    let digest = BASE64_STANDARD.decode(digest).unwrap_or_default();
    let digest = match algorithm {
        "md5" => digest.try_into().ok().map(BodyDigest::Md5),
        "sha1" => digest.try_into().ok().map(BodyDigest::Sha1),
        "sha256" => digest.try_into().ok().map(BodyDigest::Sha256),
        "blake3" => digest.try_into().ok().map(BodyDigest::Blake3),
        _ => None,
    };
    digest.ok_or_else(|| {
        let message =
            format!("`Upload-Checksum` must have an algorithm ({ALGORITHMS}) and its digest in Base64");
        Error::invalid(message).with_field(CHECKSUM)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_and_a_digest_of_its_length() {
        let digest = |bytes: usize| BASE64_STANDARD.encode(vec![7; bytes]);
        assert_eq!(parse(&format!("md5 {}", digest(16))).unwrap(), BodyDigest::Md5([7; 16]));
        assert_eq!(parse(&format!("sha1 {}", digest(20))).unwrap(), BodyDigest::Sha1([7; 20]));
        assert_eq!(parse(&format!("sha256 {}", digest(32))).unwrap(), BodyDigest::Sha256([7; 32]));
        assert_eq!(parse(&format!("blake3 {}", digest(32))).unwrap(), BodyDigest::Blake3([7; 32]));
        let (short, long) = (digest(19), digest(21));
        for bad in [
            "",
            "sha1",
            "sha1 ",
            "sha1 x",
            &format!("sha1 {short}"),
            &format!("sha1 {long}"),
            "crc32 AAAAAA==",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
