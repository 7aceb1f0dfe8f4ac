use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use osproxy_api::v1::{File, PREFIX};
use osproxy_core::{App, ops};

use super::{
    path::{self, PathResult},
    query::Query,
    render,
};
use crate::{
    extract::auth::{Authenticated, Read},
    openapi,
    respond::error::HandlerResult,
};

/// `GET /files/{uid}`
#[utoipa::path(
    get, path = "/files/{uid}", context_path = PREFIX, tag = "Files", operation_id = "v1_describe_file",
    summary = "Describe a file", description = "",
    params(
        openapi::UidPath,
    ),
    security(("api_key" = ["read"])),
    responses(
        (status = 200, description = "The file.", body = File),
        openapi::Failures,
        openapi::OfFile,
    )
)]
pub(crate) async fn describe_file(
    State(app): State<Arc<App>>,
    Authenticated { caller, .. }: Authenticated<Read>,
    uid: PathResult<String>,
    uri: Uri,
) -> HandlerResult<Json<File>> {
    Query::parse(uri.query(), &[])?;
    let file = ops::describe_file::describe_file(&app, &caller.tenant, path::uid(uid)?).await?;
    Ok(Json(render::file(file)))
}
