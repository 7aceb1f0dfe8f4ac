use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use osproxy_api::v1::{File, PREFIX, UpdateFileRequest};

use super::{
    json,
    path::{self, InPath},
    query::Query,
    render,
};
use crate::{
    Result,
    api_key::Scope,
    app::App,
    http::{
        auth::{By, Upload},
        openapi,
    },
    ops,
};

/// `PATCH /files/{uid}`
#[utoipa::path(
    patch, path = "/files/{uid}", context_path = PREFIX, tag = "Files", operation_id = "v1_update_file",
    summary = "Rename a file, or change its notes", description = "A merge patch (RFC 7396): what is not named stays, a note that is `null` goes.",
    params(
        openapi::UidInPath,
    ),
    request_body(content(
        (UpdateFileRequest = "application/merge-patch+json"),
        (UpdateFileRequest = "application/json"),
    )),
    security(("api_key" = ["upload"])),
    responses(
        (status = 200, description = "The file as it is now.", body = File),
        (status = 204, description = "It is done. The key lacks the scope `read`, so the file is not described."),
        openapi::Failures,
        openapi::OfFile,
        openapi::OfBody,
    )
)]
pub(in crate::http) async fn update_file(
    State(app): State<Arc<App>>,
    By { caller, .. }: By<Upload>,
    uid: InPath<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let uid = path::uid(uid)?;
    Query::parse(uri.query(), &[])?;
    let UpdateFileRequest { name, metadata } = json::parse(&json::read_patch(&headers, body).await?)?;
    let file = ops::update_file::update_file(&app, &caller.tenant, uid, name.as_deref(), metadata).await?;
    // Whoever may rename files need not be one who may look at them.
    if !caller.has(Scope::Read) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Json(render::file(file)).into_response())
}
