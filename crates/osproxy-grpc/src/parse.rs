//! Conversion of messages into arguments of operations.

use bytes::Bytes;
use osproxy_api::{
    grpc::v1::{self, Digests},
    v1::{DEFAULT_PAGE, MAX_PAGE},
};
use osproxy_core::{
    App, Error, Result, Subject,
    ops::{describe_file::FileState, upload_file::ExpectedDigests},
};
use osproxy_types::uid::Uid;
use prost_types::{Duration, Timestamp};
use serde::de::DeserializeOwned;
use tonic::Extensions;

/// Default lifetime of links and uploads, in seconds.
const EXPIRE: i64 = 3600;

/// Parses the field `uid`, and records it as the subject of the request.
pub(super) fn uid(extensions: &Extensions, text: &str) -> Result<Uid> {
    let invalid = |_| Error::invalid("`uid` must be a decimal number").with_field("uid");
    let uid = text.parse().map_err(invalid)?;
    if let Some(subject) = extensions.get::<Subject>() {
        subject.set(uid);
    }
    Ok(uid)
}

/// Parses expected digests.
pub(super) fn expected_digests(digests: Option<&Digests>) -> Result<ExpectedDigests> {
    let Some(digests) = digests else {
        return Ok(ExpectedDigests::default());
    };
    Ok(ExpectedDigests {
        md5: digest("digests.md5", &digests.md5)?,
        sha256: digest("digests.sha256", &digests.sha256)?,
        blake3: digest("digests.blake3", &digests.blake3)?,
    })
}

/// Parses a digest. Returns `None` if the field is empty.
pub(super) fn digest<const N: usize>(field: &'static str, bytes: &Bytes) -> Result<Option<[u8; N]>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let digest = <[u8; N]>::try_from(&bytes[..]);
    digest.map(Some).map_err(|_| Error::invalid(format!("`{field}` must have {N} bytes")).with_field(field))
}

/// Returns `None` if the string is empty.
pub(super) fn optional_text(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Parses a lifetime in seconds; defaults to one hour.
pub(super) fn lifetime(duration: Option<Duration>) -> Result<i64> {
    match duration {
        None => Ok(EXPIRE),
        Some(Duration { seconds, nanos: 0 }) => Ok(seconds),
        Some(_) => Err(Error::invalid("`expires_in` must be whole seconds").with_field("expires_in")),
    }
}

/// Parses a page size; 0 means the default.
pub(super) fn page_size(size: u32) -> Result<u64> {
    match u64::from(size) {
        0 => Ok(DEFAULT_PAGE),
        size if size <= MAX_PAGE => Ok(size),
        _ => Err(Error::invalid(format!("`page_size` must be at most {MAX_PAGE}")).with_field("page_size")),
    }
}

/// Parses a timestamp into milliseconds since the Unix epoch.
pub(super) fn timestamp(field: &'static str, moment: Option<Timestamp>) -> Result<Option<i64>> {
    let invalid = || Error::invalid(format!("`{field}` is out of range")).with_field(field);
    let in_ms = |Timestamp { seconds, nanos }: Timestamp| {
        seconds.checked_mul(1000)?.checked_add(i64::from(nanos) / 1_000_000)
    };
    moment.map(|moment| in_ms(moment).ok_or_else(invalid)).transpose()
}

/// Parses an enum value; rejects unknown values, such as those of a later version.
pub(super) fn enum_value<E: TryFrom<i32>>(field: &'static str, number: i32) -> Result<E> {
    E::try_from(number).map_err(|_| Error::invalid(format!("unknown value of `{field}`")).with_field(field))
}

/// Parses a state filter. Returns `None` if no state is specified.
pub(super) fn state(number: i32) -> Result<Option<FileState>> {
    Ok(match enum_value::<v1::FileState>("state", number)? {
        v1::FileState::Unspecified => None,
        v1::FileState::Pending => Some(FileState::Pending),
        v1::FileState::Receiving => Some(FileState::Receiving),
        v1::FileState::Completing => Some(FileState::Completing),
        v1::FileState::Processing => Some(FileState::Processing),
        v1::FileState::Stored => Some(FileState::Stored),
        v1::FileState::Corrupt => Some(FileState::Corrupt),
        v1::FileState::Rejected => Some(FileState::Rejected),
        v1::FileState::Quarantined => Some(FileState::Quarantined),
        v1::FileState::Expired => Some(FileState::Expired),
        v1::FileState::Deleted => Some(FileState::Deleted),
    })
}

/// Decodes a page token. Returns `None` for an empty token, which requests the first page.
pub(super) fn position<T: DeserializeOwned>(app: &App, filters: &[&str], token: &str) -> Result<Option<T>> {
    if token.is_empty() {
        return Ok(None);
    }
    let refused = || {
        Error::invalid("`page_token` does not match these filters; start again without a page token")
            .with_field("page_token")
    };
    app.links.verify_cursor(filters, token)?.ok_or_else(refused).map(Some)
}
