//! Errors on their way out: logged once, and rendered as the protocol has it.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use osproxy_api::{ERROR_HEADER, ErrorCode, v0::PREFIX as V0};

use super::{middleware::RequestId, v0, v1};
use crate::{Error, error};

/// After how many seconds a client may try again when something is away.
const RETRY_AFTER_SECS: u64 = 1;

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

/// Renders errors, as the envelope of v0 under its prefix and as problem documents anywhere else, and logs those that
/// are not the client's.
pub(super) async fn render(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().cloned();
    let is_v0 = is_v0(request.uri().path());
    let mut response = caught(next.run(request)).await;
    let Some(error) = response.extensions_mut().remove::<Arc<Error>>() else {
        return response;
    };
    let code = error.code;
    let status = if is_v0 { StatusCode::from_u16(code.v0_status()).ok() } else { Some(v1_status(&error)) };
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // What was refused to keep to limits is as it should be.
    let is_limit = matches!(code, ErrorCode::QuotaExceeded | ErrorCode::Overloaded);
    if status.is_server_error() && !is_limit {
        tracing::error!(code = code.as_str(), error = error::chain(&*error), "the request failed");
    } else {
        tracing::debug!(code = code.as_str(), why = &*error.message, "the request was refused");
    }
    let failure = Failure { error: &error, request_id: id.as_ref().map(|RequestId(id)| &**id) };
    let mut rendered =
        if is_v0 { v0::render(status, &failure) } else { v1::problem::render(status, &failure) };
    let headers = rendered.headers_mut();
    headers.insert(ERROR_HEADER, HeaderValue::from_static(code.as_str()));
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        headers.insert(header::ALLOW, allow);
    }
    if passes(code) {
        // Rounded up: who comes earlier is refused again.
        let wait = error.retry_after().map_or(RETRY_AFTER_SECS, |wait| wait.as_secs() + 1);
        headers.insert(header::RETRY_AFTER, wait.into());
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

/// Whether the same request may succeed later, without anybody doing anything about it.
fn passes(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NodeUnavailable
            | ErrorCode::Unavailable
            | ErrorCode::RateLimited
            | ErrorCode::Overloaded
            | ErrorCode::StorageFull
    )
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
