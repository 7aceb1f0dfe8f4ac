use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use osproxy_api::v1::{CreateUploadLinksRequest, CreatedUploadLinks, PREFIX};
use osproxy_core::{App, ops};

use super::{
    json,
    path::{self, PathResult},
    query::Query,
    time_format::format_time,
};
use crate::{
    extract::auth::{Authenticated, Upload},
    openapi,
    respond::error::HandlerResult,
};

/// `POST /uploads/{uid}/links`
#[utoipa::path(
    post, path = "/uploads/{uid}/links", context_path = PREFIX, tag = "Uploads", operation_id = "v1_create_upload_links",
    summary = "Create new links for an upload", description = "For an upload whose links have expired or are lost. Received parts are kept, and the upload stays open as long as the new links are valid. Constraints of earlier links do not apply to the new ones; give them again.",
    params(
        openapi::UidPath,
    ),
    request_body(content = CreateUploadLinksRequest),
    security(("api_key" = ["upload"])),
    responses(
        (status = 201, description = "The new links.", body = CreatedUploadLinks),
        openapi::Failures,
        openapi::OfFile,
        openapi::OfBody,
    )
)]
pub(crate) async fn create_upload_links(
    State(app): State<Arc<App>>,
    Authenticated { caller, .. }: Authenticated<Upload>,
    uid: PathResult<String>,
    request: Request,
) -> HandlerResult<(StatusCode, Json<CreatedUploadLinks>)> {
    let uid = path::uid(uid)?;
    let (request, body) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    let CreateUploadLinksRequest { expires_in, constraints } =
        json::parse(&json::read(&request.headers, body).await?)?;
    let made =
        ops::create_upload_links::create_upload_links(&app, &caller, uid, expires_in, constraints).await?;
    let answer = CreatedUploadLinks {
        uid: uid.to_string(),
        part_size: made.status.part_size,
        links: made.links,
        expires_at: format_time(made.expires_at),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}
