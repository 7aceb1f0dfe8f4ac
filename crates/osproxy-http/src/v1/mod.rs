//! API v1: operations of applications, authenticated by API key, and of their clients, by signed
//! link.

pub(super) mod abort_upload;
pub(super) mod complete_upload;
pub(super) mod copy_file;
pub(super) mod create_link;
pub(super) mod create_upload;
pub(super) mod create_upload_links;
pub(super) mod delete_file;
pub(super) mod describe_file;
pub(super) mod describe_service;
pub(super) mod describe_task;
pub(super) mod digest;
pub(super) mod download_file;
mod idempotency;
mod json;
pub(super) mod list_files;
pub(super) mod list_nodes;
pub(super) mod list_tasks;
mod pagination;
mod path;
pub(super) mod problem;
pub(super) mod prove_possession;
pub(super) mod query;
mod reject_form;
mod render;
pub(super) mod retry_task;
pub(super) mod revoke_links;
mod time_format;
pub(super) mod update_file;
pub(super) mod upload_file;
pub(super) mod upload_link;
pub(super) mod upload_part;
pub(super) mod upload_status;

use axum::{
    extract::Request,
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::respond::error::Rejection;

/// Rejects GET, HEAD and DELETE requests with a body.
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
