//! Forwards calls to a node that can access the content. Each call becomes a request of API v1. A
//! signed link, created only for this request, authorizes the request.

use std::{
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use axum::{
    body::Body,
    http::{Extensions, Request, Response, header},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use osproxy_api::{
    ERROR_HEADER, ErrorCode,
    v1::{CompleteUploadRequest, Disposition, Problem},
};
use osproxy_cluster::{ForwardContext, ForwardFailure};
use osproxy_core::{
    App, ClientAddr, Error, RequestId, Result,
    links::{LinkConstraints, LinkPeriod},
    ops::{
        UploadOptions, complete_upload::CompleteRequest, download_file::StoredFile,
        upload_file::ExpectedDigests,
    },
};
use osproxy_types::uid::Uid;
use time::{Duration, OffsetDateTime};

/// Lifetime in seconds of the links that authorize forwarded requests. It must be longer than the
/// difference between the clocks of two nodes.
const HOLDS: i64 = 600;

/// Maximum number of bytes to read from the body of an error response.
const MAX_PROBLEM: usize = 64 << 10;

/// Returns the period of validity for a link that authorizes a forwarded request. The period is
/// dated one second in the future. Otherwise, if the links of the file were revoked earlier in the
/// current second, the new link would count as revoked too.
fn period() -> LinkPeriod {
    LinkPeriod { date: OffsetDateTime::now_utc() + Duration::seconds(1), lifetime_secs: HOLDS }
}

/// The node that a call is forwarded to.
#[derive(Clone, Copy)]
pub(super) struct ForwardTarget<'a> {
    /// A store that the node has.
    pub(super) store: &'a str,
    /// Extensions of the client's request.
    pub(super) extensions: &'a Extensions,
}

/// Forwards a part. `size` is the size of the part in bytes, if known.
pub(super) async fn upload_part(
    app: &App,
    node: ForwardTarget<'_>,
    uid: Uid,
    number: u32,
    options: &UploadOptions,
    size: Option<u64>,
    content: impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
) -> Result<()> {
    let path = app
        .links
        .upload_links(uid, period(), &options.constraints)
        .part
        .replace("{number}", &number.to_string());
    let mut request = Request::put(path);
    if let Some(digests) = digests(&options.expected) {
        request = request.header("repr-digest", digests);
    }
    let body_error = Arc::<Mutex<Option<Error>>>::default();
    let mut content = SizedBody { content, remaining: size, last: None, failure: body_error.clone() };
    let body = if size == Some(0) {
        // The HTTP client does not poll a body whose known length is 0. So check here that the
        // stream contains nothing.
        content.check_end().await?;
        Body::empty()
    } else {
        Body::new(content)
    };
    let request = request.body(body).map_err(Error::internal)?;
    let response = send(app, node, request).await;
    // If the body failed, return the reason. The other node only knows that the body broke off.
    let broken = body_error.lock().unwrap_or_else(PoisonError::into_inner).take();
    broken.map_or(response.map(drop), Err)
}

/// Completes the upload on the node that has the parts.
pub(super) async fn complete_upload(
    app: &App,
    node: ForwardTarget<'_>,
    uid: Uid,
    CompleteRequest { parts, size, expected }: CompleteRequest,
    constraints: &LinkConstraints,
) -> Result<()> {
    let path = app.links.upload_links(uid, period(), constraints).complete;
    let request_body = CompleteUploadRequest {
        parts,
        size,
        md5: expected.md5.map(hex::encode),
        sha256: expected.sha256.map(hex::encode),
        blake3: expected.blake3.map(hex::encode),
    };
    let body = serde_json::to_vec(&request_body).map_err(Error::internal)?;
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(body)).map_err(Error::internal)?;
    send(app, node, request).await.map(drop)
}

/// Reads a range of bytes of a file from another node. The range must not be empty, and must lie
/// within the file.
pub(super) async fn download_file(
    app: &App,
    node: ForwardTarget<'_>,
    file: &StoredFile,
    range: Range<u64>,
    constraints: &LinkConstraints,
) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
    let path = app.links.download_link(file.uid, "content", period(), Disposition::Attachment, constraints);
    let last = range.end.saturating_sub(1);
    let request = Request::get(path).header(header::RANGE, format!("bytes={}-{last}", range.start));
    let request = request.body(Body::empty()).map_err(Error::internal)?;
    let response = send(app, node, request).await?;
    Ok(TryStreamExt::map_err(response.into_body().into_data_stream(), Error::node_unavailable))
}

/// Returns the expected digests in the format of the header `Repr-Digest` (RFC 9530); `None` if no
/// digest is expected.
fn digests(expected: &ExpectedDigests) -> Option<String> {
    let member = |name: &str, digest: Option<&[u8]>| {
        digest.map(|digest| format!("{name}=:{}:", STANDARD.encode(digest)))
    };
    let members = [
        member("md5", expected.md5.as_ref().map(<[u8; 16]>::as_slice)),
        member("sha-256", expected.sha256.as_ref().map(<[u8; 32]>::as_slice)),
        member("blake3", expected.blake3.as_ref().map(<[u8; 32]>::as_slice)),
    ];
    Some(members.into_iter().flatten().collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
}

/// Sends a request to another node, with the request id and the client address of the client's
/// request. Fails with the other node's error if the response is not successful.
async fn send(app: &App, node: ForwardTarget<'_>, request: Request<Body>) -> Result<Response<Body>> {
    let ForwardTarget { store, extensions } = node;
    let context = ForwardContext {
        request_id: extensions.get().map(|RequestId(id)| &**id),
        client: extensions.get().map(|ClientAddr(client)| *client),
    };
    let response = app.forwarder.forward(store, context, request.map(osproxy_cluster::boxed)).await;
    let response = response.map(|response| response.map(Body::new)).map_err(|failure| match failure {
        ForwardFailure::BodyAborted(_) => super::content::incomplete_stream(),
        failure => failure.into(),
    })?;
    if response.status().is_success() { Ok(response) } else { Err(response_error(response).await) }
}

/// Converts an error response to the error that the other node reported.
async fn response_error(response: Response<Body>) -> Error {
    let (head, body) = response.into_parts();
    let code = head.headers.get(ERROR_HEADER).and_then(|name| ErrorCode::named(name.to_str().ok()?));
    let Some(code) = code else {
        return Error::node_unavailable(format!(
            "the node responded with status {} and no known error code",
            head.status
        ));
    };
    let body = Limited::new(body, MAX_PROBLEM).collect().await;
    let problem = body.ok().and_then(|body| serde_json::from_slice::<Problem>(&body.to_bytes()).ok());
    let Some(problem) = problem else {
        return Error::new(code, code.title());
    };
    let error = Error::new(code, problem.detail);
    problem.members.into_iter().fold(error, |error, (name, value)| error.with_member(name, value))
}

/// A request body. If a size was announced and the content has another size, the body fails.
struct SizedBody<S> {
    content: S,
    /// Number of bytes still to come; `None` if no size was announced.
    remaining: Option<u64>,
    /// The chunk that reaches the announced size. It is held back until the content ends. Otherwise
    /// the HTTP client would stop polling at the announced size, and content beyond that size would
    /// go unnoticed.
    last: Option<Bytes>,
    /// Why the body failed. [`upload_part`] returns this error.
    failure: Arc<Mutex<Option<Error>>>,
}

impl<S> SizedBody<S> {
    fn fail<T>(&self, error: Error) -> Poll<Option<Result<T, std::io::Error>>> {
        let said = std::io::Error::other(error.message.to_string());
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        Poll::Ready(Some(Err(said)))
    }
}

impl<S: Stream<Item = Result<Bytes>> + Unpin> SizedBody<S> {
    /// Fails if any content follows.
    async fn check_end(&mut self) -> Result<()> {
        match self.content.next().await {
            None => Ok(()),
            Some(Ok(_)) => Err(too_long()),
            Some(Err(error)) => Err(error),
        }
    }
}

fn too_long() -> Error {
    Error::new(ErrorCode::SizeMismatch, "the content is longer than the size in the header")
}

impl<S: Stream<Item = Result<Bytes>> + Unpin> http_body::Body for SizedBody<S> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        loop {
            match ready!(self.content.poll_next_unpin(cx)) {
                Some(Ok(bytes)) => {
                    let Some(left) = self.remaining else {
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    };
                    let Some(rest) = left.checked_sub(bytes.len() as u64) else {
                        return self.fail(too_long());
                    };
                    self.remaining = Some(rest);
                    if rest > 0 {
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                    self.last = Some(bytes);
                }
                Some(Err(error)) => return self.fail(error),
                None if self.remaining.is_some_and(|left| left > 0) => {
                    return self.fail(super::content::incomplete_stream());
                }
                None => return Poll::Ready(self.last.take().map(|bytes| Ok(Frame::data(bytes)))),
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let last = self.last.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.remaining.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + last))
    }
}
