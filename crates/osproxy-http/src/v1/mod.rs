//! API v1. Applications call operations with an API key. The clients of applications call
//! operations with a signed link.

pub(super) mod content;
pub(super) mod digest;
pub(super) mod downloads;
pub(super) mod files;
mod idempotency;
mod json;
pub(super) mod links;
mod pagination;
mod path;
pub(super) mod problem;
pub(super) mod query;
mod reject_form;
mod render;
pub(super) mod service;
pub(super) mod store_file;
pub(super) mod tasks;
mod time_format;
pub(super) mod upload_link;
pub(super) mod uploads;

use axum::{
    extract::Request,
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::respond::error::Rejection;

/// Rejects GET, HEAD and DELETE requests whose headers announce a body.
pub(super) async fn reject_unexpected_body(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE) {
        let (parts, body) = request.into_parts();
        if let Err(error) = json::reject_body(&parts) {
            return Rejection(error).into_response();
        }
        return next.run(Request::from_parts(parts, body)).await;
    }
    next.run(request).await
}
