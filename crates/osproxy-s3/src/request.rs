//! The way of a request through `s3s`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use osproxy_cluster::Forwarder;
use osproxy_core::{Error, ProtocolOutcome};
use osproxy_types::error_chain;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error, service::S3Service};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    MAX_FORM_BYTES, MAX_FORM_FILE_BYTES, MAX_FORMS_BYTES, MAX_XML_BYTES, body::DigestCheck, context::Context,
    cors::Cors, errors, form, forward, headers, signature,
};

/// Maximum length of a frame of a form, in bytes: `s3s` cannot find the end of a file in a frame above
/// 64 KiB that follows the beginning of a boundary.
const MAX_FORM_FRAME: usize = 32 << 10;

/// What comes before `s3s`.
pub(crate) struct Front {
    service: S3Service,
    forwarder: Forwarder,
    /// Memory for forms, in bytes: `s3s` buffers their files.
    forms: Semaphore,
}

impl Front {
    pub(crate) fn new(service: S3Service, forwarder: Forwarder) -> Self {
        Self { service, forwarder, forms: Semaphore::new(MAX_FORMS_BYTES) }
    }

    /// Reserves memory for a form, by the length that its head announces.
    fn reserve(&self, headers: &HeaderMap) -> S3Result<SemaphorePermit<'_>> {
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let max = MAX_FORM_FILE_BYTES.saturating_add(MAX_FORM_BYTES as u64);
        let length = length.unwrap_or(max).min(max);
        // The beginning is kept besides.
        let bytes = length + length.min(MAX_FORM_BYTES as u64);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let busy = |_| s3_error!(SlowDown, "Too many forms are being received; retry later");
        self.forms.try_acquire_many(bytes).map_err(busy)
    }
}

/// Authenticates a request and runs its operation.
pub(crate) async fn handle(front: Arc<Front>, cors: Arc<Cors>, request: Request) -> Response {
    let context = Context::default();
    let (head, body) = request.into_parts();
    if head.method == Method::OPTIONS {
        context.set_operation("Preflight");
        let response = context.clone().scope(cors.preflight(&head)).await;
        return finish(response, &context);
    }
    let cors_headers = context.clone().scope(cors.headers(&head)).await;
    let mut response = answer(&front, &context, Request::from_parts(head, body)).await;
    response.headers_mut().extend(cors_headers);
    response
}

async fn answer(front: &Front, context: &Context, request: Request) -> Response {
    // Boxed, because the future of `s3s` is large.
    let response = context.clone().scope(Box::pin(respond_or_forward(front, context, request))).await;
    let mut response = match response {
        Ok(response) => response,
        Err(error) => errors::render(&error),
    };
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    // `s3s` reports a body that it cannot read as an internal error.
    if is_error && let Some(error) = context.body_error() {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(Arc::new(error.clone()));
        return response;
    }
    if response.status() == StatusCode::INTERNAL_SERVER_ERROR && !context.is_logged() {
        if let Some(error) = invalid_body(context) {
            response = errors::render(&error);
        } else {
            tracing::error!("the request failed in s3s");
        }
    }
    finish(response, context)
}

/// Adds the request id, and tells the access log what was done.
fn finish(mut response: Response, context: &Context) -> Response {
    let mut outcome: ProtocolOutcome = response.extensions_mut().remove().unwrap_or_default();
    errors::insert_request_id(response.headers_mut());
    outcome.operation = context.operation().map(str::to_owned);
    response.extensions_mut().insert(outcome);
    response
}

/// Forwards the request of a client if only another node has the bytes.
async fn respond_or_forward(front: &Front, context: &Context, request: Request) -> S3Result<Response> {
    let (head, body) = request.into_parts();
    let original = head.clone();
    let response = respond(front, context, Request::from_parts(head, body)).await;
    let (Some(store), Some(body)) = (context.elsewhere(), context.take_unread()) else {
        return response;
    };
    let head = original;
    match front.forwarder.is_forwarded(&head.method, &head.uri, &head.headers) {
        Ok(false) => forward::forward(&front.forwarder, store, head, body).await.map_err(errors::to_s3),
        // A forwarded request is never forwarded again.
        Ok(true) => response,
        Err(error) => Err(s3_error!(AccessDenied, "{error}")),
    }
}

async fn respond(front: &Front, context: &Context, request: Request) -> S3Result<Response> {
    let (head, body) = request.into_parts();
    signature::check(&head)?;
    headers::check(&head)?;
    let is_form = head.method == Method::POST && headers::is_form(&head.headers);
    let _memory = if is_form { Some(front.reserve(&head.headers)?) } else { None };
    let is_head = head.method == Method::HEAD;
    let max_frame = if is_form { MAX_FORM_FRAME } else { usize::MAX };
    // `s3s` does not check the digest of this body.
    let check = headers::is_multi_delete(&head).then(|| DigestCheck::of(&head.headers)).transpose()?;
    let body = NotedBody {
        body,
        context: context.clone(),
        is_form,
        max_frame,
        rest: Bytes::new(),
        check,
        is_read: false,
        kept: headers::completes_upload(&head).then(BytesMut::new),
    };
    let request = axum::http::Request::from_parts(head, s3s::Body::http_body_unsync(body));
    let response = front.service.call(request).await.map_err(|error| {
        let error = s3s::StdError::from(error);
        tracing::error!(error = error_chain(&*error), "a response could not be written");
        context.set_logged();
        s3_error!(InternalError)
    })?;
    let (mut head, mut body) = response.into_parts();
    if is_head && head.headers.contains_key(header::CONTENT_RANGE) {
        // `s3s` answers 200.
        head.status = StatusCode::PARTIAL_CONTENT;
    }
    if let Some(name) = context.file_name() {
        form::insert_file_name(&mut head.headers, &mut body, name);
    }
    let is_error = head.status.is_client_error() || head.status.is_server_error();
    let Some(xml) = body.bytes().filter(|_| is_error) else {
        return Ok(Response::from_parts(head, Body::new(body)));
    };
    body.take_bytes();
    Ok(errors::complete(head, &xml))
}

/// Explains an internal error of `s3s`: it reports so that the body of a request is too large for
/// XML, or differs from its digest. Errors of operations are logged, and do not come here.
fn invalid_body(context: &Context) -> Option<S3Error> {
    let received = context.received();
    if received > MAX_XML_BYTES as u64 {
        return Some(s3_error!(MaxMessageLengthExceeded, "Your request was too big."));
    }
    if received == 0 || context.operation().is_none() {
        return None;
    }
    let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
    let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
    let mut error = S3Error::with_message(code, message);
    error.set_status_code(StatusCode::BAD_REQUEST);
    Some(error)
}

/// Finds the error of the layer that reads the body from the connection.
fn find_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Error> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|cause| cause.downcast_ref())
}

/// A request body that tells the context what was read, and why reading failed.
struct NotedBody {
    body: Body,
    context: Context,
    is_form: bool,
    /// Maximum length of a frame in bytes.
    max_frame: usize,
    /// Received bytes that the next frames have.
    rest: Bytes,
    /// The digest that is checked at the end.
    check: Option<DigestCheck>,
    /// Whether reading has begun.
    is_read: bool,
    /// What was read, if the request can be forwarded after that.
    kept: Option<BytesMut>,
}

impl Drop for NotedBody {
    fn drop(&mut self) {
        if let Some(kept) = self.kept.take() {
            self.context.put_back(Body::from(kept.freeze()));
        } else if !self.is_read && self.context.elsewhere().is_some() {
            self.context.put_back(std::mem::take(&mut self.body));
        }
    }
}

impl http_body::Body for NotedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.is_read = true;
        if !self.rest.is_empty() {
            let length = self.rest.len().min(self.max_frame);
            let data = self.rest.split_to(length);
            if self.is_form {
                self.context.keep_form(&data);
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(received)) = &mut frame
            && let Some(data) = received.data_mut()
            && data.len() > self.max_frame
        {
            self.context.count_received(data.len() - self.max_frame);
            self.rest = data.split_off(self.max_frame);
        }
        match &frame {
            Some(Ok(frame)) => {
                let data = frame.data_ref().map_or(&[][..], |data| data);
                self.context.count_received(data.len());
                if self.is_form {
                    self.context.keep_form(data);
                }
                if let Some(check) = &mut self.check {
                    check.update(data);
                }
                if let Some(kept) = self.kept.as_mut().filter(|kept| kept.len() <= MAX_XML_BYTES) {
                    kept.extend_from_slice(data);
                }
            }
            Some(Err(error)) => {
                if let Some(error) = find_error(error) {
                    self.context.set_body_error(error.clone());
                }
            }
            None => {
                if let Some(Err(error)) = self.check.take().map(DigestCheck::verify) {
                    self.context.set_body_error(error.clone());
                    frame = Some(Err(axum::Error::new(error)));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.check.is_none() && self.body.is_end_stream()
    }

    // `s3s` needs the exact size of a body, also of one that is empty.
    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
