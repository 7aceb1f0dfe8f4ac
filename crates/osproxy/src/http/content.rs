//! Answers with the content of a file: ranges, preconditions, and the headers that keep browsers safe.

use std::{
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body::{Frame, SizeHint};
use osproxy_api::ErrorCode;
use time::OffsetDateTime;

use super::{
    conditional::{self, Validators, Verdict},
    disposition::{self, Disposition},
    link::VerifiedLink,
    middleware::harden_content,
    range::{self, Requested},
};
use crate::{
    Error, Result,
    app::{App, Transfer},
    content_type,
    link::Terms,
    metrics::Running,
    ops::download_file::{ContentReader, StoredFile, open_content},
};

/// What the whole content hashes to, whichever part of it is sent.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// How content is to be shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Presentation<'a> {
    /// What the link asks for; what a browser would run is saved instead.
    pub(super) disposition: Disposition,
    /// What it is called where it is saved, if that is not the file's own name.
    pub(super) name: Option<&'a str>,
    /// The link that it is read by.
    pub(super) link: &'a VerifiedLink,
}

/// Answers a GET or HEAD for `file`.
pub(super) async fn respond(
    app: &Arc<App>,
    file: &StoredFile,
    method: &Method,
    request: &HeaderMap,
    wanted: Presentation<'_>,
) -> Result<Response> {
    let size = file.content.size;
    // The tag is the uid's: its content never changes.
    let etag = format!("\"{}\"", file.uid);
    // HTTP knows whole seconds only.
    let last_modified = UNIX_EPOCH + Duration::from_secs(file.stored_at.unsigned_abs() / 1000);
    let validators = Validators { etag: &etag, last_modified };
    let verdict = conditional::evaluate(request, &validators);
    if verdict == Verdict::Failed {
        return Err(Error::new(
            ErrorCode::PreconditionFailed,
            "the file is not the one that the precondition names",
        ));
    }
    let ranged = method == Method::GET && conditional::range_applies(request, &validators);
    let field = request.get(header::RANGE).filter(|_| ranged);
    let requested =
        field.map_or(Requested::Whole, |field| range::parse(field.to_str().unwrap_or_default(), size));

    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    insert(headers, header::ETAG, etag);
    insert(headers, header::LAST_MODIFIED, httpdate::fmt_http_date(last_modified));
    insert(headers, header::CACHE_CONTROL, cache_control(app, wanted.link));
    harden_content(headers, &file.content_type);
    if verdict == Verdict::NotModified {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let range = match requested {
        Requested::Whole => 0..size,
        Requested::Part(range) => {
            insert(headers, header::CONTENT_RANGE, format!("bytes {}-{}/{size}", range.start, range.end - 1));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            range
        }
        Requested::Unsatisfiable => {
            return Err(Error::new(
                ErrorCode::RangeNotSatisfiable,
                format!("the file has {size} bytes, none of them in this range"),
            )
            .with_size(size));
        }
    };
    describe(response.headers_mut(), file, wanted);
    let length = range.end - range.start;
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    if method == Method::GET && length > 0 {
        *response.body_mut() = Body::new(Content::open(app, file, range, &wanted.link.terms).await?);
    }
    Ok(response)
}

/// What caches may do with content: it never changes, so browsers keep it until its link ends. Shared caches outlive a
/// revocation, so they keep it only where that is configured, and never what depends on who asks or how often.
fn cache_control(app: &App, link: &VerifiedLink) -> String {
    if link.terms.uses.is_some() {
        return "no-store, no-transform".to_owned();
    }
    let scope = if app.limits.public_links && link.terms.networks.is_empty() { "public" } else { "private" };
    let max_age = link.ends_at.saturating_sub(OffsetDateTime::now_utc().unix_timestamp()).max(0);
    format!("{scope}, max-age={max_age}, no-transform")
}

/// Says what the content is, and that nothing else must be made of it.
fn describe(headers: &mut HeaderMap, file: &StoredFile, wanted: Presentation<'_>) {
    let active = content_type::is_active(&file.content_type);
    let disposition = if active { Disposition::Attachment } else { wanted.disposition };
    let content_type = content_type::with_charset(&file.content_type, file.content.is_utf8);
    insert(headers, header::CONTENT_TYPE, &*content_type);
    let name = wanted.name.unwrap_or(&file.name);
    headers.insert(header::CONTENT_DISPOSITION, disposition::header(disposition, name));
    if let Some(digests) = repr_digest(file) {
        insert(headers, REPR_DIGEST, digests);
    }
}

/// What the whole content hashes to, for clients that want to check it (RFC 9530). Only what osproxy computed itself. BLAKE3
/// has no registered name there, and stands under the one that everybody would look for.
fn repr_digest(file: &StoredFile) -> Option<String> {
    let digests = file.content.digests.as_ref()?;
    let known = [
        ("md5", digests.md5.as_ref().map(<[u8; 16]>::as_slice)),
        ("sha-256", digests.sha256.as_ref().map(<[u8; 32]>::as_slice)),
        ("blake3", Some(digests.blake3.as_slice())),
    ];
    let known = known.iter().filter_map(|(name, digest)| {
        digest.map(|digest| format!("{name}=:{}:", BASE64_STANDARD.encode(digest)))
    });
    Some(known.collect::<Vec<_>>().join(", "))
}

/// Inserts a value of visible ASCII; anything else could only come from a damaged row and is left out.
fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: impl TryInto<HeaderValue>) {
    if let Ok(value) = value.try_into() {
        headers.insert(name, value);
    }
}

/// A body of known length that streams from the store. An error cuts the connection, so that a client never
/// takes a part for the whole.
struct Content {
    reader: ContentReader,
    rest: u64,
    /// Counts it as long as it lasts.
    _running: (Transfer, Running),
}

impl Content {
    async fn open(app: &Arc<App>, file: &StoredFile, range: Range<u64>, terms: &Terms) -> Result<Self> {
        let mut transfer = app.transfers.begin(terms, 0).await?;
        transfer.of(&file.tenant)?;
        let running = (transfer, app.metrics.downloads.begin());
        let reader = open_content(app, file, range.clone()).await?;
        Ok(Self { rest: range.end - range.start, reader, _running: running })
    }
}

impl http_body::Body for Content {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        let next = ready!(self.reader.poll_next_unpin(cx));
        Poll::Ready(next.map(|read| {
            let bytes = read.map_err(axum::Error::new)?;
            self.rest = self.rest.saturating_sub(bytes.len() as u64);
            Ok(Frame::data(bytes))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.rest == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest)
    }
}
