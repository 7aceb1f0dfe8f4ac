//! Expected digests in requests: JSON fields, and the headers of RFC 9530 and RFC 1864.

use axum::http::{HeaderMap, HeaderName, header::ToStrError};
use base64::{Engine, engine::general_purpose::STANDARD};
use osproxy_core::{Error, Result, ops::upload_file::ExpectedDigests};

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// Parses an optional digest in hexadecimal. An error names the field `name`.
pub(super) fn optional_hex<const N: usize>(name: &str, text: Option<&String>) -> Result<Option<[u8; N]>> {
    text.map(|text| required_hex(name, text)).transpose()
}

/// Parses a required digest in hexadecimal. An error names the field `name`.
pub(super) fn required_hex<const N: usize>(name: &str, text: &str) -> Result<[u8; N]> {
    let mut digest = [0; N];
    hex::decode_to_slice(text, &mut digest).map_err(|_| {
        Error::invalid(format!("`{name}` must have {} hexadecimal digits", 2 * N)).with_field(name)
    })?;
    Ok(digest)
}

/// Parses the expected digests in a JSON body.
pub(super) fn from_fields(
    md5: Option<&String>,
    sha256: Option<&String>,
    blake3: Option<&String>,
) -> Result<ExpectedDigests> {
    Ok(ExpectedDigests {
        md5: optional_hex("md5", md5)?,
        sha256: optional_hex("sha256", sha256)?,
        blake3: optional_hex("blake3", blake3)?,
    })
}

/// Parses the expected digests of a raw body: `Content-MD5`, `Content-Digest` and `Repr-Digest`.
/// All three mean the same here, because content must not be encoded. Ignores unknown algorithms,
/// as RFC 9530 requires.
pub fn from_headers(headers: &HeaderMap) -> Result<ExpectedDigests> {
    let mut expected = ExpectedDigests::default();
    for value in headers.get_all(CONTENT_MD5) {
        let text = value.to_str().map_err(|error| not_ascii("Content-MD5", &error))?;
        set_digest(&mut expected.md5, "Content-MD5", text)?;
    }
    for (field, name) in [(CONTENT_DIGEST, "Content-Digest"), (REPR_DIGEST, "Repr-Digest")] {
        for value in headers.get_all(field) {
            let text = value.to_str().map_err(|error| not_ascii(name, &error))?;
            parse_dictionary(name, text, &mut expected)?;
        }
    }
    Ok(expected)
}

/// Parses a dictionary like `md5=:…:, sha-256=:…:`.
fn parse_dictionary(name: &str, text: &str, expected: &mut ExpectedDigests) -> Result<()> {
    for member in text.split(',').map(str::trim) {
        let (algorithm, value) = member.split_once('=').ok_or_else(|| malformed_header(name))?;
        let value = value.strip_prefix(':').and_then(|value| value.strip_suffix(':'));
        match algorithm {
            "md5" => set_digest(&mut expected.md5, name, value.ok_or_else(|| malformed_header(name))?)?,
            "sha-256" => {
                set_digest(&mut expected.sha256, name, value.ok_or_else(|| malformed_header(name))?)?;
            }
            "blake3" => set_digest(&mut expected.blake3, name, value.ok_or_else(|| malformed_header(name))?)?,
            _ => {}
        }
    }
    Ok(())
}

fn set_digest<const N: usize>(expected: &mut Option<[u8; N]>, name: &str, text: &str) -> Result<()> {
    let digest: Vec<u8> = STANDARD.decode(text.trim()).map_err(|_| malformed_header(name))?;
    let digest: [u8; N] = digest.try_into().map_err(|_| malformed_header(name))?;
    if expected.is_some_and(|other| other != digest) {
        return Err(
            Error::invalid(format!("`{name}` contradicts another digest of the request")).with_field(name)
        );
    }
    *expected = Some(digest);
    Ok(())
}

fn not_ascii(name: &str, _: &ToStrError) -> Error {
    malformed_header(name)
}

fn malformed_header(name: &str) -> Error {
    Error::invalid(format!("`{name}` is malformed, or its digest has the wrong length")).with_field(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(fields: &[(&'static str, &str)]) -> Result<ExpectedDigests> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        from_headers(&headers)
    }

    #[test]
    fn digests_are_parsed_from_headers() {
        let (md5, sha256) = (STANDARD.encode([1; 16]), STANDARD.encode([2; 32]));
        let both = format!("sha-256=:{sha256}:, md5=:{md5}: , sha-512=:x:, other=?1");
        let read = claims(&[("content-digest", &both)]).unwrap();
        assert_eq!(read, ExpectedDigests { md5: Some([1; 16]), sha256: Some([2; 32]), blake3: None });
        assert_eq!(claims(&[("content-md5", &md5)]).unwrap(), ExpectedDigests::md5_only(Some([1; 16])));
        assert_eq!(claims(&[("repr-digest", &both), ("content-md5", &md5)]).unwrap(), read);
        assert_eq!(claims(&[]).unwrap(), ExpectedDigests::default());
    }

    #[test]
    fn invalid_and_contradicting_digests_are_rejected() {
        let (md5, other) = (STANDARD.encode([1; 16]), STANDARD.encode([3; 16]));
        for fields in [
            &[("content-md5", "x")][..],
            &[("content-md5", "")],
            &[("content-digest", "")],
            &[("content-digest", "md5")],
            &[("content-digest", "md5=abc")],
            &[("content-digest", "sha-256=:AQ==:")],
            &[("content-digest", &format!("md5=:{md5}"))],
            &[("content-md5", &md5), ("content-md5", &other)],
            &[("content-md5", &md5), ("content-digest", &format!("md5=:{other}:"))],
        ] {
            assert!(claims(fields).is_err(), "{fields:?}");
        }
    }
}
