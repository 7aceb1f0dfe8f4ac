use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use osproxy_api::v1::{PREFIX, Stats};
use osproxy_core::{App, ops};

use super::{query::Query, render, time_format::format_time};
use crate::{
    extract::auth::{Admin, Authenticated},
    openapi,
    respond::error::HandlerResult,
};

/// `GET /stats`
#[utoipa::path(
    get, path = "/stats", context_path = PREFIX, tag = "Service", operation_id = "v1_describe_service",
    summary = "Get statistics", description = "Counts files, blobs, bytes and tasks.",
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "The statistics, which may be some seconds old.", body = Stats),
        openapi::Failures,
    )
)]
pub(crate) async fn describe_service(
    State(app): State<Arc<App>>,
    _: Authenticated<Admin>,
    uri: Uri,
) -> HandlerResult<Json<Stats>> {
    Query::parse(uri.query(), &[])?;
    let stats = ops::describe_service::describe_service(&app).await?;
    let files = stats.files.iter().map(|(state, count)| (render::state(*state).as_str().to_owned(), *count));
    Ok(Json(Stats {
        counted_at: format_time(stats.counted_at),
        files: files.collect(),
        blobs: stats.blobs,
        bytes_stored: stats.bytes_stored,
        bytes_saved: stats.bytes_saved,
        tasks: stats.tasks_by_state(),
    }))
}
