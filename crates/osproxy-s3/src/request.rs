//! The way of a request through `s3s`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use osproxy_core::{Error, ProtocolOutcome};
use osproxy_types::error_chain;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error, service::S3Service};

use crate::{MAX_XML_BYTES, context::Context, errors, signature};

/// Maximum length of a frame of a form, in bytes: `s3s` cannot find the end of a file in a frame above
/// 64 KiB that follows the beginning of a boundary.
const MAX_FORM_FRAME: usize = 32 << 10;

/// Authenticates a request and runs its operation.
pub(crate) async fn handle(service: S3Service, request: Request) -> Response {
    let context = Context::default();
    // Boxed, because the future of `s3s` is large.
    let response = context.clone().scope(Box::pin(respond(&service, &context, request))).await;
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
        if let Some(error) = invalid_body(&context) {
            response = errors::render(&error);
        } else {
            tracing::error!("the request failed in s3s");
        }
    }
    let mut outcome: ProtocolOutcome = response.extensions_mut().remove().unwrap_or_default();
    errors::insert_request_id(response.headers_mut());
    outcome.operation = context.operation().map(str::to_owned);
    response.extensions_mut().insert(outcome);
    response
}

async fn respond(service: &S3Service, context: &Context, request: Request) -> S3Result<Response> {
    let (head, body) = request.into_parts();
    signature::check(&head)?;
    let content_type = head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_form = content_type.is_some_and(|it| it.to_ascii_lowercase().starts_with(b"multipart/form-data"));
    let max_frame = if is_form { MAX_FORM_FRAME } else { usize::MAX };
    let body = NotedBody { body, context: context.clone(), max_frame, rest: Bytes::new() };
    let request = axum::http::Request::from_parts(head, s3s::Body::http_body_unsync(body));
    let response = service.call(request).await.map_err(|error| {
        let error = s3s::StdError::from(error);
        tracing::error!(error = error_chain(&*error), "a response could not be written");
        context.set_logged();
        s3_error!(InternalError)
    })?;
    let (head, mut body) = response.into_parts();
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
    /// Maximum length of a frame in bytes.
    max_frame: usize,
    /// Received bytes that the next frames have.
    rest: Bytes,
}

impl http_body::Body for NotedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if !self.rest.is_empty() {
            let length = self.rest.len().min(self.max_frame);
            return Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))));
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
            Some(Ok(frame)) => self.context.count_received(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(error)) => {
                if let Some(error) = find_error(error) {
                    self.context.set_body_error(error.clone());
                }
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
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
