use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use osproxy_api::v1::{File, PREFIX, UpdateFileRequest};
use osproxy_core::{App, ops};
use osproxy_types::scope::Scope;

use super::{
    json,
    path::{self, PathResult},
    query::Query,
    render,
};
use crate::{
    extract::auth::{Authenticated, Upload},
    openapi,
    respond::error::HandlerResult,
};

/// `PATCH /files/{uid}`
#[utoipa::path(
    patch, path = "/files/{uid}", context_path = PREFIX, tag = "Files", operation_id = "v1_update_file",
    summary = "Change the name or metadata of a file", description = "The body is a merge patch (RFC 7396): absent members stay unchanged, and metadata members that are `null` are removed.",
    params(
        openapi::UidPath,
    ),
    request_body(content(
        (UpdateFileRequest = "application/merge-patch+json"),
        (UpdateFileRequest = "application/json"),
    )),
    security(("api_key" = ["upload"])),
    responses(
        (status = 200, description = "The changed file.", body = File),
        (status = 204, description = "The file was changed. It is not returned, because the API key lacks the scope `read`."),
        openapi::Failures,
        openapi::OfFile,
        openapi::OfBody,
    )
)]
pub(crate) async fn update_file(
    State(app): State<Arc<App>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    uid: PathResult<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<Response> {
    let uid = path::uid(uid)?;
    Query::parse(uri.query(), &[])?;
    let UpdateFileRequest { name, metadata } = json::parse(&json::read_patch(&headers, body).await?)?;
    let file = ops::update_file::update_file(&app, &caller.tenant, uid, name.as_deref(), metadata).await?;
    // The scope `upload` alone does not allow reading files.
    if !caller.has_scope(Scope::Read) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Json(render::file(file)).into_response())
}
