//! Headers and statuses of tus.

use std::fmt::Display;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use osproxy_api::{
    ErrorCode,
    tus::{DEFER_LENGTH, LENGTH, OFFSET, PREFIX, RESUMABLE, VERSION, VERSIONS},
};
use osproxy_core::{Error, Result};

/// The status of a request whose checksum does not match.
const CHECKSUM_MISMATCH: u16 = 460;

/// Whether a path belongs to tus.
pub(crate) fn is_tus(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The status of an error. Clients retry only after some statuses: after a HEAD that fails
/// otherwise, they start a new upload.
pub(crate) fn status(error: &Error, is_head: bool) -> StatusCode {
    let status = match error.code {
        code if is_head && code.is_retryable() => StatusCode::LOCKED.as_u16(),
        ErrorCode::DigestMismatch => CHECKSUM_MISMATCH,
        // Clients do not retry after 408.
        ErrorCode::IncompleteBody => StatusCode::SERVICE_UNAVAILABLE.as_u16(),
        // If clients retried this, two of them could end each other's requests forever.
        ErrorCode::Superseded => StatusCode::BAD_REQUEST.as_u16(),
        code => code.v1_status(),
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Adds the version of the protocol to a response. If the client uses another version, also adds
/// the versions that are supported.
pub(crate) fn insert_version(status: StatusCode, headers: &mut HeaderMap) {
    headers.insert(HeaderName::from_static(RESUMABLE), HeaderValue::from_static(VERSION));
    if status == StatusCode::PRECONDITION_FAILED {
        headers.insert(HeaderName::from_static(VERSIONS), HeaderValue::from_static(VERSION));
    }
}

/// Fails with `PreconditionFailed` unless the request uses the supported version.
pub(super) fn check_version(headers: &HeaderMap) -> Result<()> {
    match headers.get(RESUMABLE) {
        Some(version) if version.as_bytes() == VERSION.as_bytes() => Ok(()),
        _ => {
            let message = format!("the request must have the header `Tus-Resumable: {VERSION}`");
            Err(Error::new(ErrorCode::PreconditionFailed, message))
        }
    }
}

/// The offset at which the body continues.
pub(super) fn offset(headers: &HeaderMap) -> Result<u64> {
    number(headers, OFFSET)?
        .ok_or_else(|| Error::invalid("the request must have the header `Upload-Offset`").with_field(OFFSET))
}

/// The announced size of the content. `None` if it is not in the request.
pub(super) fn length(headers: &HeaderMap) -> Result<Option<u64>> {
    number(headers, LENGTH)
}

/// The size of the content of a new upload. `None` if it is announced later. Fails with
/// `InvalidArgument` unless the request either has the size or says that it is announced later.
pub(super) fn new_length(headers: &HeaderMap) -> Result<Option<u64>> {
    let deferred = headers.get(DEFER_LENGTH).map(HeaderValue::as_bytes);
    match (length(headers)?, deferred) {
        (Some(length), None) => Ok(Some(length)),
        (None, Some(b"1")) => Ok(None),
        _ => {
            let message = "the request must have either `Upload-Length` or `Upload-Defer-Length: 1`";
            Err(Error::invalid(message).with_field(LENGTH))
        }
    }
}

fn number(headers: &HeaderMap, name: &'static str) -> Result<Option<u64>> {
    let Some(value) = text(headers, name)? else {
        return Ok(None);
    };
    let number = value.parse::<i64>().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()));
    let invalid = || Error::invalid(format!("`{name}` must be a number of bytes")).with_field(name);
    Ok(Some(number.ok_or_else(invalid)?.unsigned_abs()))
}

/// The text of a header that must not be repeated.
pub(super) fn text<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>> {
    let mut values = headers.get_all(name).iter();
    let (value, None) = (values.next(), values.next()) else {
        return Err(Error::invalid(format!("`{name}` is given twice")).with_field(name));
    };
    let not_ascii = |_| Error::invalid(format!("`{name}` must be ASCII")).with_field(name);
    value.map(|value| value.to_str().map_err(not_ascii)).transpose()
}

/// Inserts a header whose value is formatted.
pub(crate) fn insert(headers: &mut HeaderMap, name: &'static str, value: &dyn Display) {
    if let Ok(value) = HeaderValue::try_from(value.to_string()) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_whole_and_fit() {
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(OFFSET, value.parse().unwrap());
            headers
        };
        assert_eq!(offset(&headers("0")).unwrap(), 0);
        assert_eq!(offset(&headers("9223372036854775807")).unwrap(), i64::MAX.unsigned_abs());
        for bad in ["", "-1", "+1", "1.0", "0x1", "1 1", "9223372036854775808", "99999999999999999999"] {
            assert!(offset(&headers(bad)).is_err(), "{bad:?}");
        }
        assert!(offset(&HeaderMap::new()).is_err());
        let mut twice = headers("1");
        twice.append(OFFSET, "1".parse().unwrap());
        assert!(offset(&twice).is_err());
    }
}
