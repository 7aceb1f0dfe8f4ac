//! Errors on their way out: logged once, and rendered as the protocol has it.

use std::{error::Error as _, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use osproxy_api::{
    ERROR_HEADER, ErrorCode,
    v0::PREFIX as V0,
    v1::{LINKS, PREFIX as V1},
};

use tonic::{Code, Status};

use super::{v0, v1};
use crate::{
    Error,
    app::RequestId,
    error::{self, Carried},
};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// What there is to render.
pub(super) struct Failure<'a> {
    pub(super) error: &'a Error,
    pub(super) request_id: Option<&'a str>,
}

/// The answer to paths that name nothing.
pub(super) async fn unknown_route() -> Error {
    Error::new(ErrorCode::UnknownRoute, "there is nothing at this path")
}

/// The answer to methods that a path does not have.
pub(super) async fn method_not_allowed() -> Error {
    Error::new(ErrorCode::MethodNotAllowed, "this path does not take this method")
}

impl IntoResponse for Error {
    /// A blank that carries the error to where it is rendered and logged, once.
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// Whether a path is one of API v0, whose clients know errors by its envelope.
fn is_v0(path: &str) -> bool {
    path.strip_prefix(V0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The status of an error under API v1, for those who must know it before it is rendered.
pub(super) fn v1_status(error: &Error) -> StatusCode {
    StatusCode::from_u16(error.code.v1_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The error that an answer of gRPC tells of, to who speaks it, or does not.
fn carried(response: &Response, is_grpc: bool) -> Option<Arc<Error>> {
    let status = response.extensions().get::<Status>()?;
    if !is_grpc {
        let message = "this path takes gRPC: the content type must be application/grpc";
        return Some(Arc::new(Error::new(ErrorCode::UnsupportedMediaType, message)));
    }
    if let Some(Carried(error)) = status.source().and_then(|source| source.downcast_ref()) {
        return Some(error.clone());
    }
    // What was not made here is about a request of one message, and the client is to blame for it.
    let error = match status.code() {
        Code::Internal | Code::OutOfRange | Code::ResourceExhausted => {
            Error::invalid("the message cannot be read, or is longer than 1 MiB")
        }
        Code::Unknown | Code::Cancelled | Code::InvalidArgument => {
            Error::new(ErrorCode::IncompleteBody, "the message ended before it was complete")
        }
        _ => return None,
    };
    Some(Arc::new(error))
}

/// Logs an error. Refusals to keep to limits are no faults of the service, whatever their status.
fn log(error: &Error, status: StatusCode) {
    let code = error.code.as_str();
    match error.code {
        // Either the disk is full, or a client asks for more than it has.
        ErrorCode::StorageFull => {
            tracing::warn!(code, error = error::chain(error), "the request was refused");
        }
        ErrorCode::QuotaExceeded | ErrorCode::Overloaded | ErrorCode::NotImplemented => {
            tracing::debug!(code, why = &*error.message, "the request was refused");
        }
        _ if status.is_server_error() => {
            tracing::error!(code, error = error::chain(error), "the request failed");
        }
        _ => tracing::debug!(code, why = &*error.message, "the request was refused"),
    }
}

/// Renders errors, as the envelope of v0 under its prefix, as a status of gRPC for its clients, and as problem documents anywhere
/// else, and logs those that are not the client's.
pub(super) async fn render(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().cloned();
    let (is_v0, is_grpc) = (is_v0(request.uri().path()), is_grpc(&request));
    let mut response = caught(next.run(request)).await;
    let Some(error) =
        response.extensions_mut().remove::<Arc<Error>>().or_else(|| carried(&response, is_grpc))
    else {
        return response;
    };
    let code = error.code;
    let status = if is_v0 { StatusCode::from_u16(code.v0_status()).ok() } else { Some(v1_status(&error)) };
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    log(&error, status);
    if is_grpc {
        let mut rendered = error::status(error.clone()).into_http::<Body>();
        rendered.headers_mut().insert(ERROR_HEADER, HeaderValue::from_static(code.as_str()));
        rendered.extensions_mut().insert(error);
        return rendered;
    }
    let failure = Failure { error: &error, request_id: id.as_ref().map(|RequestId(id)| &**id) };
    let mut rendered =
        if is_v0 { v0::render(status, &failure) } else { v1::problem::render(status, &failure) };
    let headers = rendered.headers_mut();
    headers.insert(ERROR_HEADER, HeaderValue::from_static(code.as_str()));
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        headers.insert(header::ALLOW, allow);
    }
    if let Some(wait) = error.retry_after() {
        // Rounded up: who comes earlier is refused again.
        let seconds = wait.as_nanos().div_ceil(NANOS_PER_SECOND);
        headers.insert(header::RETRY_AFTER, u64::try_from(seconds).unwrap_or(u64::MAX).max(1).into());
    }
    if code == ErrorCode::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="osproxy""#));
    }
    if let Some(size) = error.size()
        && let Ok(range) = HeaderValue::try_from(format!("bytes */{size}"))
    {
        headers.insert(header::CONTENT_RANGE, range);
    }
    // The line of the request tells why.
    rendered.extensions_mut().insert(error);
    rendered
}

/// Whether a request is one of gRPC, whose clients know errors by fields of their own. What is sent to the other APIs may be of
/// any type.
fn is_grpc(request: &Request) -> bool {
    let path = request.uri().path();
    if [V0, V1, LINKS].iter().any(|prefix| path.starts_with(prefix)) {
        return false;
    }
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Lets a panic end one request and nothing else. What it says stays in the log.
async fn caught(answer: impl Future<Output = Response>) -> Response {
    let answer = AssertUnwindSafe(answer).catch_unwind().await;
    answer.unwrap_or_else(|_| Error::internal("it panicked").into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, body::Body, middleware::from_fn, routing::get};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_panic_ends_one_request_and_tells_nobody_why() {
        async fn panics() {
            panic!("hush");
        }
        async fn panics_later() {
            tokio::task::yield_now().await;
            panic!("hush");
        }
        let router = Router::new()
            .route("/now", get(panics))
            .route("/later", get(panics_later))
            .layer(from_fn(render));
        for path in ["/now", "/later", "/now"] {
            let mut request = Request::get(path).body(Body::empty()).unwrap();
            request.extensions_mut().insert(RequestId("id-1".into()));
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), 500);
            assert_eq!(answer.headers()[ERROR_HEADER], "internal");
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.contains("id-1") && !body.contains("hush") && !body.contains("panic"), "{body}");
        }
    }

    #[test]
    fn only_what_lies_under_its_prefix_is_v0() {
        for path in ["/api/storage/v0", "/api/storage/v0/ping", "/api/storage/v0/"] {
            assert!(is_v0(path), "{path}");
        }
        for path in ["/", "/api/storage/v01", "/api/storage", "/api/v1/files", "/f/1/x", "/x/api/storage/v0/"]
        {
            assert!(!is_v0(path), "{path}");
        }
    }
}
