use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use osproxy_api::v1::{PROBLEM, Problem};

use crate::http::error::Failure;

/// An error as a problem document of RFC 9457.
pub(super) fn document(status: StatusCode, failure: &Failure<'_>) -> Problem {
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

/// The answer that tells it.
pub(in crate::http) fn render(status: StatusCode, failure: &Failure<'_>) -> Response {
    // What consists of text and numbers can always be written.
    let body = serde_json::to_vec(&document(status, failure)).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM))], body).into_response()
}
