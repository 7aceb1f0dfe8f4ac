use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use osproxy_api::v1::{CopiedFile, CopyFileRequest, FileUid, PREFIX};
use osproxy_core::{App, Caller, HeldIdempotencyKey, Result, ops};
use osproxy_types::{scope::Scope, uid::Uid};

use super::{
    idempotency::{CreatedResponse, run_idempotent},
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

/// `POST /files/{uid}/copy`
#[utoipa::path(
    post, path = "/files/{uid}/copy", context_path = PREFIX, tag = "Files", operation_id = "v1_copy_file",
    summary = "Copy a file", description = "Creates a second file with the same content, without copying bytes.",
    params(
        openapi::UidPath,
        openapi::IdempotencyKey,
    ),
    request_body(content = CopyFileRequest),
    security(("api_key" = ["upload"])),
    responses(
        (status = 201, description = "The copy. Without the scope `read`, only its uid.", body = CopiedFile, headers(("location" = String, description = "URL of the new file."), ("idempotency-replayed" = String, description = "`true` if this is the recorded response to an earlier request with the same key."))),
        openapi::Failures,
        openapi::OfFile,
        openapi::OfBody,
        openapi::OfKey,
        openapi::OfRoom,
    )
)]
pub(crate) async fn copy_file(
    State(app): State<Arc<App>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<Response> {
    let uid = path::uid(uid)?;
    let (request, body) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    let body = json::read(&request.headers, body).await?;
    let wanted: CopyFileRequest = json::parse(&body)?;
    run_idempotent(&app, &caller, &request, &body, |key| copy(app.clone(), caller.clone(), uid, wanted, key))
        .await
}

async fn copy(
    app: Arc<App>,
    caller: Caller,
    uid: Uid,
    request: CopyFileRequest,
    key: Option<HeldIdempotencyKey>,
) -> Result<CreatedResponse> {
    let CopyFileRequest { name, metadata } = request;
    let copy = ops::copy_file::copy_file(&app, &caller, uid, name.as_deref(), metadata, key.as_ref()).await?;
    let uid = copy.uid.to_string();
    let location = format!("{PREFIX}/files/{uid}");
    // The scope `upload` alone does not allow reading files.
    let body = if caller.has_scope(Scope::Read) {
        CopiedFile::Known(Box::new(render::file(copy)))
    } else {
        CopiedFile::Unread(FileUid { uid })
    };
    CreatedResponse::new(Some(location), &body)
}
