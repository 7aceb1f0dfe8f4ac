//! Problem documents.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use osproxy_api::v1::{PROBLEM, Problem};

use crate::respond::error::ErrorContext;

/// Converts an error to a problem document (RFC 9457).
pub(crate) fn document(status: StatusCode, failure: &ErrorContext<'_>) -> Problem {
    let code = failure.error.code;
    let members = failure.error.members().map(|(name, value)| (name.to_owned(), value.clone()));
    Problem {
        kind: format!("urn:osproxy:error:{code}"),
        title: code.title().to_owned(),
        status: status.as_u16(),
        detail: failure.error.message.to_string(),
        code: code.as_str().to_owned(),
        request_id: failure.request_id.map(str::to_owned),
        members: members.collect(),
    }
}

pub(crate) fn render(status: StatusCode, failure: &ErrorContext<'_>) -> Response {
    render_document(status, &document(status, failure))
}

pub(crate) fn render_document(status: StatusCode, document: &Problem) -> Response {
    // Cannot fail: the document has only text and numbers.
    let body = serde_json::to_vec(document).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM))], body).into_response()
}
