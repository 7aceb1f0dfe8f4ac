//! The headers of requests.

use axum::{
    extract::Request,
    http::{HeaderMap, header},
};
use osproxy_api::{
    ErrorCode,
    resumable::{COMPLETE, CONTENT_TYPE, INCOMPLETE, INTEROP_VERSION, INTEROP_VERSIONS},
    tus::{LENGTH, OFFSET, RESUMABLE},
    v1::PREFIX,
};
use osproxy_core::{
    Error, Result,
    ops::{
        append_upload::AppendSpec,
        create_upload::{self, AnnouncedContent, UploadRequest},
        upload_file::SizeHint,
    },
};
use sfv::{BareItem, Item, Parser};

use crate::{extract::disposition, tus, v1::reject_form::reject_form};

/// The interop version of the latest revision of the draft.
const LATEST: u8 = *INTEROP_VERSIONS.end();
/// The last version in which `Upload-Incomplete` is used instead of `Upload-Complete`.
const INCOMPLETE_UNTIL: u8 = 3;
/// The first version with a media type for PATCH, and with limits.
const MEDIA_TYPE_SINCE: u8 = 6;
/// The first version in which a request that appends must have `Upload-Complete`, responses report
/// the completeness of their semantics, and statuses are up to the server.
const EXPLICIT_SINCE: u8 = 7;

/// How a request uses the draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    version: u8,
    /// Whether the client has declared this version. A client of another version, or of a later
    /// standard, gets no interim responses.
    is_declared: bool,
}

/// Returns how a request uses the draft; `None` if it does not, or its path does not support it.
pub(crate) fn draft_of(request: &Request) -> Option<Draft> {
    let path = request.uri().path();
    (tus::is_tus(path) || is_upload_target(path)).then(|| Draft::from_headers(request.headers())).flatten()
}

/// Whether a path is one to which API v1 uploads the whole content.
pub(crate) fn is_upload_target(path: &str) -> bool {
    let uid = path.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix("/uploads/"));
    uid.and_then(|rest| rest.strip_suffix("/content")).is_some_and(|uid| !uid.contains('/'))
}

impl Draft {
    /// Returns how the request with these headers uses the draft; `None` if it does not. Requests
    /// of tus have `Tus-Resumable`.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let has = |name: &str| headers.contains_key(name);
        if has(RESUMABLE) || ![INTEROP_VERSION, COMPLETE, INCOMPLETE].into_iter().any(has) {
            return None;
        }
        let declared = field(headers, INTEROP_VERSION).and_then(integer);
        let declared = declared.and_then(|version| u8::try_from(version).ok());
        let supported = declared.filter(|version| INTEROP_VERSIONS.contains(version));
        let guessed = if has(INCOMPLETE) && !has(COMPLETE) { INCOMPLETE_UNTIL } else { LATEST };
        Some(Self { version: supported.unwrap_or(guessed), is_declared: supported.is_some() })
    }

    /// The interop version that the client has declared, if it is supported.
    pub(super) fn declared_version(self) -> Option<u8> {
        self.is_declared.then_some(self.version)
    }

    pub(super) fn uses_incomplete(self) -> bool {
        self.version <= INCOMPLETE_UNTIL
    }

    pub(super) fn has_limits(self) -> bool {
        self.version >= MEDIA_TYPE_SINCE
    }

    /// Name of the limit on the lifetime of an upload.
    pub(super) fn lifetime_key(self) -> &'static str {
        if self.version < EXPLICIT_SINCE { "expires" } else { "max-age" }
    }

    /// Whether the draft prescribes most statuses.
    pub(super) fn prescribes_statuses(self) -> bool {
        self.version < EXPLICIT_SINCE
    }

    /// Whether the content ends with the body. `None` if the header is missing or malformed.
    pub(crate) fn completes(self, headers: &HeaderMap) -> Option<bool> {
        if self.uses_incomplete() {
            field(headers, INCOMPLETE).and_then(boolean).map(|is_incomplete| !is_incomplete)
        } else {
            field(headers, COMPLETE).and_then(boolean)
        }
    }

    /// Parses a request that creates an upload. `size` is what is known about the length of its
    /// body, and `is_empty` whether it has none. Also returns what to append to the new upload.
    pub(crate) fn creation(
        self,
        headers: &HeaderMap,
        size: SizeHint,
        is_empty: bool,
    ) -> Result<(UploadRequest, Option<AppendSpec>)> {
        let ends_content = self.completes(headers).ok_or_else(|| self.missing_completeness())?;
        reject_form(headers)?;
        let length = length(headers, 0, size, ends_content)?;
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let content_type = text(header::CONTENT_TYPE).filter(|given| create_upload::is_mime_type(given));
        let name = headers.get(header::CONTENT_DISPOSITION);
        let name = name.and_then(|value| disposition::file_name(value.as_bytes()));
        let announced = AnnouncedContent {
            size: length,
            content_type: content_type.map(str::to_owned),
            ..AnnouncedContent::default()
        };
        let path = name.filter(|name| !name.is_empty()).unwrap_or_else(|| tus::DEFAULT_NAME.to_owned());
        let spec = AppendSpec { offset: 0, size, ends_content, checksum: None, announced_size: None };
        let request = UploadRequest { path, announced, arrives_in_order: true };
        Ok((request, (ends_content || !is_empty).then_some(spec)))
    }

    /// Parses a request that appends. `size` is what is known about the length of its body.
    pub(crate) fn append(self, headers: &HeaderMap, size: SizeHint) -> Result<AppendSpec> {
        if self.version >= MEDIA_TYPE_SINCE {
            check_media_type(headers)?;
        }
        // Without the header, a request of an earlier version ends the content.
        let ends_content = match self.completes(headers) {
            None if self.version >= EXPLICIT_SINCE => return Err(self.missing_completeness()),
            given => given.unwrap_or(true),
        };
        let offset = field(headers, OFFSET).and_then(natural).ok_or_else(|| {
            let message = "the request must have the header `Upload-Offset` with a number of bytes";
            Error::invalid(message).with_field(OFFSET)
        })?;
        let announced_size = length(headers, offset, size, ends_content)?;
        Ok(AppendSpec { offset, size, ends_content, checksum: None, announced_size })
    }

    /// Parses a request to a whole upload, without a body: HEAD and DELETE.
    pub(crate) fn check_bodiless(self, headers: &HeaderMap) -> Result<()> {
        let unexpected = [OFFSET, COMPLETE, INCOMPLETE].into_iter().find(|name| headers.contains_key(*name));
        match unexpected {
            Some(name) if self.prescribes_statuses() => {
                let message = format!("this request must not have the header `{name}`");
                Err(Error::invalid(message).with_field(name))
            }
            _ => Ok(()),
        }
    }

    fn missing_completeness(self) -> Error {
        let name = if self.uses_incomplete() { INCOMPLETE } else { COMPLETE };
        let message = format!("the request must have the header `{name}` with `?0` or `?1`");
        Error::invalid(message).with_field(name)
    }
}

/// The size of the content, if the request announces it. Fails with `SizeMismatch` if it announces
/// two sizes.
pub(super) fn length(
    headers: &HeaderMap,
    offset: u64,
    size: SizeHint,
    ends_content: bool,
) -> Result<Option<u64>> {
    let announced = field(headers, LENGTH).and_then(natural);
    let end = match size {
        SizeHint::Exact(size) if ends_content => Some(offset.saturating_add(size)),
        _ => None,
    };
    match (announced, end) {
        (Some(announced), Some(end)) if announced != end => {
            let message = format!("`Upload-Length` is {announced}, but the content ends at {end} bytes");
            Err(Error::new(ErrorCode::SizeMismatch, message))
        }
        (announced, end) => Ok(announced.or(end)),
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<()> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = given.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(CONTENT_TYPE) {
        return Ok(());
    }
    let message = format!("the content type of the body must be `{CONTENT_TYPE}`");
    Err(Error::new(ErrorCode::UnsupportedMediaType, message))
}

/// The value of a header that occurs once. As the draft requires, malformed headers are ignored.
fn field<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    value.to_str().ok()
}

/// Parses a structured field whose value is a boolean.
pub fn boolean(text: &str) -> Option<bool> {
    match bare_item(text)? {
        BareItem::Boolean(value) => Some(value),
        _ => None,
    }
}

/// Parses a structured field whose value is an integer.
pub fn integer(text: &str) -> Option<i64> {
    match bare_item(text)? {
        BareItem::Integer(value) => Some(value.into()),
        _ => None,
    }
}

fn natural(text: &str) -> Option<u64> {
    integer(text).and_then(|value| u64::try_from(value).ok())
}

/// Parameters of items are ignored.
fn bare_item(text: &str) -> Option<BareItem> {
    Parser::new(text).parse::<Item>().ok().map(|item| item.bare_item)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn draft(fields: &[(&'static str, &'static str)]) -> Option<Draft> {
        Draft::from_headers(&headers(fields))
    }

    #[test]
    fn headers_decide_the_protocol() {
        assert_eq!(draft(&[("upload-offset", "0")]), None);
        assert_eq!(draft(&[("tus-resumable", "1.0.0"), ("upload-complete", "?1")]), None);
        let declared = |version| Some(Draft { version, is_declared: true });
        for (text, version) in [("3", 3), ("8", 8), ("6;a=b", 6), (" 5 ", 5)] {
            assert_eq!(draft(&[("upload-draft-interop-version", text)]), declared(version), "{text}");
        }
        let guessed = |version| Some(Draft { version, is_declared: false });
        for text in ["2", "9", "-8", "264", "8.0", "?1", "", "x"] {
            assert_eq!(draft(&[("upload-draft-interop-version", text)]), guessed(8), "{text:?}");
        }
        assert_eq!(draft(&[("upload-complete", "?1")]), guessed(8));
        assert_eq!(draft(&[("upload-incomplete", "?1")]), guessed(3));
    }

    #[test]
    fn malformed_values_are_ignored() {
        let completes =
            |fields: &[(&'static str, &'static str)]| draft(fields).unwrap().completes(&headers(fields));
        assert_eq!(completes(&[("upload-complete", "?1")]), Some(true));
        assert_eq!(completes(&[("upload-complete", "?0;x")]), Some(false));
        assert_eq!(completes(&[("upload-incomplete", "?1")]), Some(false));
        for text in ["", "1", "true", "?2", "?", "?1 ?1", "?1,", "(?1)"] {
            assert_eq!(completes(&[("upload-complete", text)]), None, "{text:?}");
        }
        assert_eq!(completes(&[("upload-complete", "?1"), ("upload-complete", "?1")]), None);
        assert_eq!(natural("999999999999999"), Some(999_999_999_999_999));
        for text in ["-1", "+1", "1.0", "1000000000000000", "0x1", "1 1", "\"1\"", ""] {
            assert_eq!(natural(text), None, "{text:?}");
        }
    }

    #[test]
    fn announced_sizes_agree() {
        let length = |fields: &[_], offset, size, ends| length(&headers(fields), offset, size, ends).ok();
        let announced = &[("upload-length", "10")][..];
        assert_eq!(length(announced, 4, SizeHint::Exact(6), true), Some(Some(10)));
        assert_eq!(length(announced, 4, SizeHint::Exact(7), true), None);
        assert_eq!(length(announced, 4, SizeHint::Exact(3), false), Some(Some(10)));
        assert_eq!(length(announced, 4, SizeHint::Unknown, true), Some(Some(10)));
        assert_eq!(length(&[], 4, SizeHint::Exact(6), true), Some(Some(10)));
        assert_eq!(length(&[], 4, SizeHint::Exact(6), false), Some(None));
        assert_eq!(length(&[], 4, SizeHint::Unknown, true), Some(None));
        assert_eq!(length(&[("upload-length", "x")], 0, SizeHint::Unknown, true), Some(None));
    }

    #[test]
    fn targets_of_uploads() {
        assert!(is_upload_target("/api/v1/uploads/1/content"));
        for path in
            ["/api/v1/uploads/1", "/api/v1/uploads/1/parts/content", "/api/v1/uploads/content", "/tus/1"]
        {
            assert!(!is_upload_target(path), "{path}");
        }
    }
}
