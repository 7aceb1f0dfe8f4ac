//! Converts errors to gRPC statuses. As in HTTP, the extensions of a response carry the error to
//! the middleware that logs and renders errors.

use std::{collections::HashMap, error::Error as _, sync::Arc};

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use osproxy_api::ErrorCode;
use osproxy_core::Error;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::RpcResult;

/// Domain in the `ErrorInfo` details.
const ERROR_DOMAIN: &str = "osproxy";

/// Maximum length of a member of an error, in bytes. Longer members are not sent. gRPC carries
/// errors in header fields, which clients limit to a few KiB.
const MAX_MEMBER_BYTES: usize = 2048;

/// Carries an [`Error`] inside a status through tonic to [`carry_error`].
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
struct StatusSource(Arc<Error>);

/// Converts the result of an operation to the result of a gRPC method.
pub(super) fn reply<T>(result: Result<T, Error>) -> RpcResult<T> {
    result.map(tonic::Response::new).map_err(to_status)
}

/// Converts an error to a status. The details contain the error code, the members, the invalid
/// field and the retry delay.
pub(super) fn to_status(error: impl Into<Arc<Error>>) -> Status {
    let error = error.into();
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fits = |(_, text): &(String, String)| text.len() <= MAX_MEMBER_BYTES;
    let members: HashMap<_, _> =
        error.members().map(|(name, value)| (name.to_owned(), text(value))).filter(fits).collect();
    let field = members.get("field").cloned();
    let mut details =
        ErrorDetails::with_error_info(error.code.as_str().to_uppercase(), ERROR_DOMAIN, members);
    if let Some(field) = field {
        details.add_bad_request_violation(field, error.message.clone());
    }
    if let Some(wait) = error.retry_after() {
        details.set_retry_info(Some(wait));
    }
    let mut status = Status::with_error_details(error.code.grpc_code(), error.message.clone(), details);
    status.set_source(Arc::new(StatusSource(error)));
    status
}

/// Renders an error for a gRPC client.
pub fn render_error(error: Arc<Error>) -> Response {
    to_status(error).into_http::<Body>()
}

/// Returns a placeholder that carries the error to the middleware that renders it.
pub(super) fn placeholder(error: impl Into<Arc<Error>>) -> Response {
    let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
    response.extensions_mut().insert::<Arc<Error>>(error.into());
    response
}

/// Takes the error out of the status that a method or tonic returned, and passes the error to the
/// middleware that renders errors. A client that does not speak gRPC gets `UnsupportedMediaType`.
pub(super) async fn carry_error(request: Request, next: Next) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let response = next.run(request).await;
    let error = response.extensions().get::<Status>().and_then(|status| {
        if is_grpc {
            return status_error(status);
        }
        let message = "this path serves gRPC: the content type must be application/grpc";
        Some(Arc::new(Error::new(ErrorCode::UnsupportedMediaType, message)))
    });
    error.map_or(response, placeholder)
}

/// Returns the error that a status carries, or an error for a request message that tonic could not
/// decode; `None` for any other status.
fn status_error(status: &Status) -> Option<Arc<Error>> {
    if let Some(StatusSource(error)) = status.source().and_then(|source| source.downcast_ref()) {
        return Some(error.clone());
    }
    // Tonic creates statuses with these codes when it cannot decode the request message.
    let error = match status.code() {
        Code::Internal | Code::OutOfRange | Code::ResourceExhausted => {
            Error::invalid("the message is malformed or too large")
        }
        Code::Unknown | Code::Cancelled | Code::InvalidArgument => {
            Error::new(ErrorCode::IncompleteBody, "the request message was cut off; retry the call")
        }
        _ => return None,
    };
    Some(Arc::new(error))
}
