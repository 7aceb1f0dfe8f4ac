//! Error envelopes of API v0.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use osproxy_api::v0::Envelope;

use crate::respond::error::ErrorContext;

/// Renders an error as an envelope.
pub(crate) fn render(status: StatusCode, failure: &ErrorContext<'_>) -> Response {
    let mut message = failure.error.message.to_string();
    if status.is_server_error()
        && let Some(id) = failure.request_id
    {
        message = format!("{message} (request id {id})");
    }
    (status, Json(Envelope { code: status.as_u16(), message, data: "" })).into_response()
}
