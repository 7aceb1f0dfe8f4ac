use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use osproxy_api::v1::Task;

use super::{
    json,
    path::{self, InPath},
    query::Query,
    render,
};
use crate::{Result, app::App, ops};

/// `POST /tasks/{id}/retry`
pub(in crate::http) async fn retry_task(
    State(app): State<Arc<App>>,
    id: InPath<String>,
    request: Request,
) -> Result<Json<Task>> {
    let (request, _) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    json::must_be_empty(&request)?;
    let task = ops::retry_task::retry_task(&app, path::task(id)?).await?;
    Ok(Json(render::task(task)))
}
