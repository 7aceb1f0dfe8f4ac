//! Serves the content of files, with ranges, preconditions, caching and security headers. Forwards
//! the request if only another node has the content.

use std::{
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::Response,
};
use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body::{Frame, SizeHint};
use osproxy_api::ErrorCode;
use osproxy_cluster::Forwarder;
use osproxy_core::{
    App, Error, Result,
    links::{LinkConstraints, ValidLink},
    ops::{
        self, FileOps,
        download_file::{AdmittedContent, StoredFile, open_content, retry_if_moved},
    },
};
use osproxy_types::{content_type, uid::Uid};
use time::OffsetDateTime;

use crate::{
    extract::{
        conditional::{self, PreconditionResult, Validators},
        link::LinkVerifier,
        range::{self, RequestedRange},
    },
    forward::{self, RequestSource},
    middleware::insert_content_security_headers,
    respond::{
        disposition::{self, Disposition},
        error::HandlerResult,
    },
};

/// Header with the digests of the whole content, even in the response to a range request.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// Length of its value with all digests, in bytes.
const MAX_REPR_DIGEST: usize = 160;

/// How to present content to the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presentation<'a> {
    /// Disposition that the link requests. Active content, such as HTML, is always sent as an
    /// attachment.
    pub(crate) disposition: Disposition,
    /// Name under which the client saves the file; `None` for the name of the file itself.
    pub(crate) filename: Option<&'a str>,
    /// The link that grants the download.
    pub(crate) link: &'a ValidLink,
}

/// State of the download handlers.
#[derive(Clone)]
pub(crate) struct Downloads {
    pub(crate) files: Arc<FileOps>,
    pub(crate) link_verifier: LinkVerifier,
    forwarder: Forwarder,
    /// Whether shared caches may store content. Set by `links.public_cache`.
    pub(crate) public_links: bool,
}

impl Downloads {
    pub(crate) fn new(app: &App) -> Self {
        Self {
            files: app.files.clone(),
            link_verifier: LinkVerifier::new(app.links.clone(), app.forwarder.clone()),
            forwarder: app.forwarder.clone(),
            public_links: app.limits.public_links,
        }
    }
}

/// Serves a GET or HEAD request for the content of a file. A GET that returns content counts as a
/// use of the link. If the content moves to another store during the request, tries again with that
/// store.
pub(crate) async fn serve_file(
    downloads: &Downloads,
    request: &Parts,
    uid: Uid,
    presentation: Presentation<'_>,
) -> HandlerResult<Response> {
    let source = forward::request_source(&downloads.forwarder, request)?;
    let file = if presentation.link.constraints.for_processing {
        ops::download_file::complete_file(&downloads.files, uid).await?
    } else {
        ops::download_file::download_file(&downloads.files, uid).await?
    };
    let read = |file: Arc<StoredFile>| async move {
        match ops::locate_content::store_elsewhere(&downloads.files, &file) {
            None => respond(downloads, &file, &request.method, &request.headers, presentation).await,
            Some(store) => forward::forward_without_body(&downloads.forwarder, source, store, request).await,
        }
    };
    let has_moved = |response: &Result<Response>| match response {
        Ok(response) => forward::is_misdirected(response),
        Err(error) => error.code == ErrorCode::NodeUnavailable,
    };
    let response = retry_if_moved(&downloads.files, file, read, has_moved).await?;
    // Only a GET that returns content is a use. The node that the client called counts the use, not
    // the node to which the request was forwarded.
    if source == RequestSource::Client && request.method == Method::GET && response.status().is_success() {
        downloads.link_verifier.count_use(presentation.link).await?;
    }
    Ok(response)
}

/// Responds to a GET or HEAD request for the content of `file`. Fails with `PreconditionFailed` or
/// `RangeNotSatisfiable`.
async fn respond(
    downloads: &Downloads,
    file: &StoredFile,
    method: &Method,
    request: &HeaderMap,
    presentation: Presentation<'_>,
) -> Result<Response> {
    let size = file.content.size;
    // The content of a uid never changes, so the uid serves as the entity tag.
    let etag = format!("\"{}\"", file.uid);
    // HTTP dates have no fractions of a second.
    let last_modified = UNIX_EPOCH + Duration::from_secs(file.stored_at.unsigned_abs() / 1000);
    let validators = Validators { etag: &etag, last_modified };
    let preconditions = conditional::evaluate(request, &validators);
    if preconditions == PreconditionResult::PreconditionFailed {
        return Err(Error::new(
            ErrorCode::PreconditionFailed,
            "the precondition `If-Match` or `If-Unmodified-Since` does not hold",
        ));
    }
    let applies_range = method == Method::GET && conditional::range_applies(request, &validators);
    let range_header = request.get(header::RANGE).filter(|_| applies_range);
    let range_request = range_header
        .map_or(RequestedRange::Whole, |field| range::parse(field.to_str().unwrap_or_default(), size));

    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    insert(headers, header::ETAG, etag);
    insert(headers, header::LAST_MODIFIED, httpdate::fmt_http_date(last_modified));
    insert(headers, header::CACHE_CONTROL, cache_control(downloads, presentation.link));
    insert_content_security_headers(headers, &file.content_type);
    if preconditions == PreconditionResult::NotModified {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let range = match range_request {
        RequestedRange::Whole => 0..size,
        RequestedRange::Satisfiable(range) => {
            insert(headers, header::CONTENT_RANGE, format!("bytes {}-{}/{size}", range.start, range.end - 1));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            range
        }
        RequestedRange::Unsatisfiable => {
            return Err(Error::new(
                ErrorCode::RangeNotSatisfiable,
                format!("the range lies outside the file, which has {size} bytes"),
            )
            .with_file_size(size));
        }
    };
    insert_content_headers(response.headers_mut(), file, presentation);
    let length = range.end - range.start;
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    if method == Method::GET && length > 0 {
        *response.body_mut() = Body::new(
            ContentBody::open(&downloads.files, file, range, &presentation.link.constraints).await?,
        );
    }
    Ok(response)
}

/// Returns the `Cache-Control` of content. A browser may cache content until the link expires,
/// because content never changes. If the link has a limit on uses, no cache may store the content,
/// so that each use reaches the service. No cache may store content for a step of processing: it may
/// never be accepted.
///
/// A shared cache may serve content even after its link is revoked. So shared caches are allowed
/// only by a setting, and never for links that are restricted by network.
fn cache_control(downloads: &Downloads, link: &ValidLink) -> String {
    if link.constraints.uses.is_some() || link.constraints.for_processing {
        return "no-store, no-transform".to_owned();
    }
    let scope =
        if downloads.public_links && link.constraints.networks.is_empty() { "public" } else { "private" };
    let max_age = link.expires_at.saturating_sub(OffsetDateTime::now_utc().unix_timestamp()).max(0);
    format!("{scope}, max-age={max_age}, no-transform")
}

/// Adds the headers that describe the content: type, disposition and digests.
fn insert_content_headers(headers: &mut HeaderMap, file: &StoredFile, presentation: Presentation<'_>) {
    let is_active = content_type::may_execute_scripts(&file.content_type);
    let disposition = if is_active { Disposition::Attachment } else { presentation.disposition };
    let content_type = content_type::with_charset(&file.content_type, file.content.is_utf8);
    insert(headers, header::CONTENT_TYPE, &*content_type);
    let name = presentation.filename.unwrap_or(&file.name);
    headers.insert(header::CONTENT_DISPOSITION, disposition::header(disposition, name));
    if let Some(digests) = repr_digest(file) {
        insert(headers, REPR_DIGEST, digests);
    }
}

/// Returns the digests that osproxy computed, for `Repr-Digest` (RFC 9530). The algorithm name
/// `blake3` is not registered.
fn repr_digest(file: &StoredFile) -> Option<String> {
    let digests = file.content.digests.as_ref()?;
    let digests = [
        ("md5", digests.md5.as_ref().map(<[u8; 16]>::as_slice)),
        ("sha-256", digests.sha256.as_ref().map(<[u8; 32]>::as_slice)),
        ("blake3", Some(digests.blake3.as_slice())),
    ];
    let mut text = String::with_capacity(MAX_REPR_DIGEST);
    for (name, digest) in digests {
        let Some(digest) = digest else { continue };
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(name);
        text.push_str("=:");
        BASE64_STANDARD.encode_string(digest, &mut text);
        text.push(':');
    }
    Some(text)
}

/// Inserts a header. Skips an invalid value, which can only come from a damaged row.
fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: impl TryInto<HeaderValue>) {
    if let Ok(value) = value.try_into() {
        headers.insert(name, value);
    }
}

/// A response body of known length that streams from the store. An error aborts the response, so
/// that the client does not take truncated content for the whole.
struct ContentBody {
    reader: AdmittedContent,
    remaining: u64,
}

impl ContentBody {
    async fn open(
        files: &FileOps,
        file: &StoredFile,
        range: Range<u64>,
        constraints: &LinkConstraints,
    ) -> Result<Self> {
        let reader = open_content(files, file, range.clone(), constraints).await?;
        Ok(Self { remaining: range.end - range.start, reader })
    }
}

impl http_body::Body for ContentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        let next = ready!(self.reader.poll_next_unpin(cx));
        Poll::Ready(next.map(|bytes| {
            let bytes = bytes.map_err(axum::Error::new)?;
            self.remaining = self.remaining.saturating_sub(bytes.len() as u64);
            Ok(Frame::data(bytes))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
