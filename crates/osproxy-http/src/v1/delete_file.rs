use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, Uri},
};
use osproxy_api::v1::PREFIX;
use osproxy_core::{App, ops};

use super::{
    path::{self, PathResult},
    query::Query,
};
use crate::{
    extract::auth::{Authenticated, Delete},
    openapi,
    respond::error::HandlerResult,
};

/// `DELETE /files/{uid}`
#[utoipa::path(
    delete, path = "/files/{uid}", context_path = PREFIX, tag = "Files", operation_id = "v1_delete_file",
    summary = "Delete a file", description = "Works for uploads too, at any stage.",
    params(
        openapi::UidPath,
    ),
    security(("api_key" = ["delete"])),
    responses(
        (status = 204, description = "The file is deleted, or the upload with its parts."),
        openapi::Failures,
        openapi::OfFile,
    )
)]
pub(crate) async fn delete_file(
    State(app): State<Arc<App>>,
    Authenticated { caller, .. }: Authenticated<Delete>,
    uid: PathResult<String>,
    uri: Uri,
) -> HandlerResult<StatusCode> {
    Query::parse(uri.query(), &[])?;
    ops::delete_file::delete_file(&app, &caller.tenant, path::uid(uid)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
