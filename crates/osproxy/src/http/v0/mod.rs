//! API v0, as the clients of the Go program know it.

mod body;
pub(super) mod check_health;
pub(super) mod complete_upload;
pub(super) mod create_download_link;
pub(super) mod create_upload;
pub(super) mod download_file;
mod form;
pub(super) mod instant_upload;
mod json;
pub(super) mod locate_content;
mod query;
pub(super) mod upload_file;
pub(super) mod upload_part;
pub(super) mod upload_status;

use axum::{
    Json,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use osproxy_api::{ERROR_HEADER, ErrorCode, v0::Envelope};

use super::middleware::RequestId;
use crate::{Error, error};

/// After how many seconds a client may try again when something is away.
const RETRY_AFTER_SECS: u64 = 1;

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
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}

/// Renders errors as the envelope of v0, and logs those that are not the client's.
pub(super) async fn render_error(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().cloned();
    let mut response = next.run(request).await;
    let Some(failure) = response.extensions_mut().remove::<std::sync::Arc<Error>>() else {
        return response;
    };
    let status = StatusCode::from_u16(failure.code.v0_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut message = failure.message.to_string();
    if status.is_server_error() {
        tracing::error!(code = failure.code.as_str(), error = error::chain(&*failure), "the request failed");
        if let Some(RequestId(id)) = id {
            message = format!("{message} (request id {id})");
        }
    } else {
        tracing::debug!(code = failure.code.as_str(), message, "the request was refused");
    }
    let envelope = Envelope { code: status.as_u16(), message, data: "" };
    let mut rendered = (status, Json(envelope)).into_response();
    rendered.headers_mut().insert(ERROR_HEADER, HeaderValue::from_static(failure.code.as_str()));
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        rendered.headers_mut().insert(header::ALLOW, allow);
    }
    if matches!(failure.code, ErrorCode::NodeUnavailable | ErrorCode::Unavailable) {
        rendered.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_SECS.into());
    }
    if let Some(size) = failure.size()
        && let Ok(range) = HeaderValue::try_from(format!("bytes */{size}"))
    {
        rendered.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    rendered
}
