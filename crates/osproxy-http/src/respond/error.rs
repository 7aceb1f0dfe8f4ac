//! Error responses. A handler returns a [`Rejection`], which passes its [`Error`] to the
//! [`ErrorRenderer`] in the response extensions. Only the renderer knows the protocol of the
//! request, so it alone logs and renders errors.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use osproxy_api::{
    ERROR_HEADER, ErrorCode,
    tus::OFFSET,
    v0::PREFIX as V0,
    v1::{LINKS, PREFIX as V1},
};
use osproxy_core::{Error, RequestId};
use osproxy_types::error_chain;

use crate::{
    resumable::{self, Draft},
    settings::{RenderGrpcError, RenderS3Error},
    tus, v0, v1,
};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// An error with the context needed to render it.
pub(crate) struct ErrorContext<'a> {
    pub(crate) error: &'a Error,
    pub(crate) request_id: Option<&'a str>,
}

/// An [`Error`] as a response.
#[derive(Debug)]
pub(crate) struct Rejection(pub(crate) Error);

/// Result of a handler, an extractor or a middleware. `?` converts errors of operations.
pub(crate) type HandlerResult<T> = Result<T, Rejection>;

pub(crate) async fn unknown_route() -> Rejection {
    Rejection(Error::new(ErrorCode::UnknownRoute, "unknown path"))
}

pub(crate) async fn method_not_allowed() -> Rejection {
    Rejection(Error::new(ErrorCode::MethodNotAllowed, "this path does not support this method"))
}

impl<E: Into<Error>> From<E> for Rejection {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Rejection {
    /// Returns a placeholder that carries the error to the [`ErrorRenderer`].
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(Arc::new(self.0));
        response
    }
}

/// Whether a path belongs to API v0, which has its own error format.
fn is_v0(path: &str) -> bool {
    path.strip_prefix(V0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns the HTTP status of an error in API v1.
pub(crate) fn v1_status(error: &Error) -> StatusCode {
    StatusCode::from_u16(error.code.v1_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Logs an error. Some errors have a 5xx status although the service works, for example when a
/// quota is exceeded or the service is overloaded. They are logged as refused requests, not as
/// failures.
fn log(error: &Error, status: StatusCode) {
    let code = error.code.as_str();
    match error.code {
        // Only a warning: the disk may be full, or this one request may be larger than the disk.
        ErrorCode::StorageFull => {
            tracing::warn!(code, error = error_chain(error), "the request was refused");
        }
        ErrorCode::QuotaExceeded
        | ErrorCode::Overloaded
        | ErrorCode::NotImplemented
        | ErrorCode::IncompleteBody => {
            tracing::debug!(code, why = &*error.message, "the request was refused");
        }
        _ if status.is_server_error() => {
            tracing::error!(code, error = error_chain(error), "the request failed");
        }
        _ => tracing::debug!(code, why = &*error.message, "the request was refused"),
    }
}

/// Renders and logs errors: as an envelope for API v0, as a gRPC status for gRPC, as XML for S3,
/// and as a problem document for everything else.
pub(crate) struct ErrorRenderer {
    is_v0: bool,
    is_tus: bool,
    /// Set if the request uses the draft for resumable uploads.
    draft: Option<Draft>,
    is_head: bool,
    /// Set if the request is a gRPC call.
    grpc: Option<RenderGrpcError>,
    /// Set on the listener of the S3 API.
    s3: Option<RenderS3Error>,
}

impl ErrorRenderer {
    pub(crate) fn new(request: &Request, render_grpc_error: RenderGrpcError) -> Self {
        let grpc = is_grpc(request).then_some(render_grpc_error);
        let path = request.uri().path();
        Self {
            is_v0: is_v0(path),
            is_tus: tus::is_tus(path),
            draft: resumable::draft_of(request),
            is_head: request.method() == Method::HEAD,
            grpc,
            s3: None,
        }
    }

    /// Renders all errors as errors of the S3 API, whatever the path.
    pub(crate) fn for_s3(render: RenderS3Error) -> Self {
        Self { is_v0: false, is_tus: false, draft: None, is_head: false, grpc: None, s3: Some(render) }
    }

    /// Runs a handler, and renders the error that it returns. A panic is an internal error.
    pub(crate) async fn run(&self, id: &RequestId, handler: impl Future<Output = Response>) -> Response {
        let mut response = catch_panic(handler).await;
        if let Some(error) = response.extensions_mut().remove::<Arc<Error>>() {
            response = self.render(id, response, error);
        }
        if let Some(draft) = self.draft {
            draft.insert_version(response.headers_mut());
        } else if self.is_tus {
            tus::insert_version(response.status(), response.headers_mut());
        }
        response
    }

    fn render(&self, RequestId(id): &RequestId, mut response: Response, error: Arc<Error>) -> Response {
        let code = error.code;
        let v0_status =
            || StatusCode::from_u16(code.v0_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let status = match self {
            Self { is_v0: true, .. } => v0_status(),
            Self { draft: Some(draft), .. } => draft.status(&error),
            Self { is_tus: true, is_head, .. } => tus::status(&error, *is_head),
            _ => v1_status(&error),
        };
        log(&error, status);
        if let Some(render_grpc_error) = self.grpc {
            let mut rendered = render_grpc_error(error.clone());
            rendered.headers_mut().insert(ERROR_HEADER, HeaderValue::from_static(code.as_str()));
            rendered.extensions_mut().insert(error);
            return rendered;
        }
        let failure = ErrorContext { error: &error, request_id: Some(id) };
        let mut rendered = match self {
            Self { s3: Some(render_s3_error), .. } => {
                let mut rendered = render_s3_error(&error);
                insert_retry_after(rendered.headers_mut(), &error);
                // For the access log.
                rendered.extensions_mut().insert(error);
                return rendered;
            }
            Self { is_v0: true, .. } => v0::render(status, &failure),
            Self { draft: Some(draft), .. } => draft.render_error(status, &failure),
            _ => v1::problem::render(status, &failure),
        };
        let headers = rendered.headers_mut();
        headers.insert(ERROR_HEADER, HeaderValue::from_static(code.as_str()));
        if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
            headers.insert(header::ALLOW, allow);
        }
        insert_retry_after(headers, &error);
        if code == ErrorCode::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="osproxy""#));
        }
        if let Some(size) = error.file_size()
            && let Ok(range) = HeaderValue::try_from(format!("bytes */{size}"))
        {
            headers.insert(header::CONTENT_RANGE, range);
        }
        if (self.is_tus || self.draft.is_some())
            && let Some((_, offset)) = error.members().find(|(name, _)| *name == "offset")
            && let Ok(offset) = HeaderValue::try_from(offset.to_string())
        {
            headers.insert(OFFSET, offset);
        }
        // For the access log.
        rendered.extensions_mut().insert(error);
        rendered
    }
}

fn insert_retry_after(headers: &mut HeaderMap, error: &Error) {
    if let Some(wait) = error.retry_after() {
        // Round up: a client that retries earlier would be rejected again.
        let seconds = wait.as_nanos().div_ceil(NANOS_PER_SECOND);
        headers.insert(header::RETRY_AFTER, u64::try_from(seconds).unwrap_or(u64::MAX).max(1).into());
    }
}

/// Whether to render errors for gRPC. On paths of the HTTP APIs and of links, the answer is always
/// no, because content there may have any type. On other paths, the content type of the request
/// decides.
fn is_grpc(request: &Request) -> bool {
    let path = request.uri().path();
    if [V0, V1, LINKS].iter().any(|prefix| path.starts_with(prefix)) || tus::is_tus(path) {
        return false;
    }
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Turns a panic into an internal error. The response does not contain the panic message.
async fn catch_panic(handler: impl Future<Output = Response>) -> Response {
    let response = AssertUnwindSafe(handler).catch_unwind().await;
    response.unwrap_or_else(|_| Rejection(Error::internal("the handler panicked")).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_panic_fails_one_request_without_details() {
        let now = async { panic!("secret") };
        let later = async {
            tokio::task::yield_now().await;
            panic!("secret")
        };
        let no_grpc: RenderGrpcError = |_| Response::default();
        let renderer = ErrorRenderer::new(&Request::new(Body::empty()), no_grpc);
        let id = RequestId("id-1".into());
        for response in [renderer.run(&id, now).await, renderer.run(&id, later).await] {
            assert_eq!(response.status(), 500);
            assert_eq!(response.headers()[ERROR_HEADER], "internal");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.contains("id-1") && !body.contains("secret") && !body.contains("panic"), "{body}");
        }
    }

    #[test]
    fn only_paths_below_the_prefix_are_v0() {
        for path in ["/api/storage/v0", "/api/storage/v0/ping", "/api/storage/v0/"] {
            assert!(is_v0(path), "{path}");
        }
        for path in ["/", "/api/storage/v01", "/api/storage", "/api/v1/files", "/f/1/x", "/x/api/storage/v0/"]
        {
            assert!(!is_v0(path), "{path}");
        }
    }
}
