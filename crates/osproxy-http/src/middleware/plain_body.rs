//! Rejection of request bodies by their headers: encoded, partial and unexpected bodies.

use axum::http::{HeaderMap, HeaderName, header};
use osproxy_api::ErrorCode;
use osproxy_core::{Error, Result};

/// Rejects partial bodies (`Content-Range`) and encoded bodies (`Content-Encoding`, or a
/// `Transfer-Encoding` other than `chunked`). Otherwise such a body would be stored as received,
/// and later served as the plain content.
pub(super) fn check(headers: &HeaderMap) -> Result<()> {
    if headers.contains_key(header::CONTENT_RANGE) {
        let message = "`Content-Range` is not supported: send the whole content, or numbered parts";
        return Err(Error::invalid(message).with_field("content-range"));
    }
    check_encoding(headers)?;
    if list_elements(headers, &header::TRANSFER_ENCODING)
        .any(|coding| !coding.eq_ignore_ascii_case("chunked"))
    {
        let message = "`Transfer-Encoding` other than `chunked` is not supported: send the content unencoded";
        return Err(Error::new(ErrorCode::NotImplemented, message));
    }
    Ok(())
}

/// Rejects headers that announce a body.
pub(crate) fn reject_body(headers: &HeaderMap) -> Result<()> {
    let length = headers.get(header::CONTENT_LENGTH);
    let has_length = length.is_some_and(|length| length.as_bytes() != b"0");
    if has_length || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Error::invalid("this request must not have a body"));
    }
    Ok(())
}

/// Fails with `UnsupportedMediaType` if the headers announce an encoded body.
pub(crate) fn check_encoding(headers: &HeaderMap) -> Result<()> {
    if list_elements(headers, &header::CONTENT_ENCODING)
        .any(|coding| !coding.eq_ignore_ascii_case("identity"))
    {
        let message = "`Content-Encoding` is not supported: send the content unencoded";
        return Err(Error::new(ErrorCode::UnsupportedMediaType, message));
    }
    Ok(())
}

/// Returns the elements of a list header. A line that is not ASCII gives the element `?`, which no
/// check accepts.
fn list_elements<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).iter().map(|line| line.to_str().unwrap_or("?"));
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_and_partial_bodies_are_rejected() {
        for (name, value, expected) in [
            ("content-encoding", "identity", None),
            ("content-encoding", "Identity, identity", None),
            ("content-encoding", "", None),
            ("content-encoding", "gzip", Some(ErrorCode::UnsupportedMediaType)),
            ("content-encoding", "identity,br", Some(ErrorCode::UnsupportedMediaType)),
            ("content-encoding", "aws-chunked", Some(ErrorCode::UnsupportedMediaType)),
            ("transfer-encoding", "Chunked", None),
            ("transfer-encoding", "gzip, chunked", Some(ErrorCode::NotImplemented)),
            ("content-range", "bytes 4-9/10", Some(ErrorCode::InvalidArgument)),
            ("content-range", "bytes 0-9/10", Some(ErrorCode::InvalidArgument)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(check(&headers).err().map(|error| error.code), expected, "{name}: {value}");
        }
        let mut headers = HeaderMap::new();
        headers.append("content-encoding", "identity".parse().unwrap());
        headers.append("content-encoding", "gzip".parse().unwrap());
        assert!(check(&headers).is_err(), "the second line counts");
    }
}
