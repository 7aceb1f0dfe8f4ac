use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use osproxy_api::{
    schema,
    v1::{PREFIX, Task},
};
use osproxy_core::{App, ops};

use super::{
    json,
    path::{self, PathResult},
    query::Query,
    render,
};
use crate::{
    extract::auth::{Admin, Authenticated},
    openapi,
    respond::error::HandlerResult,
};

/// `POST /tasks/{id}/retry`
#[utoipa::path(
    post, path = "/tasks/{id}/retry", context_path = PREFIX, tag = "Service", operation_id = "v1_retry_task",
    summary = "Retry a dead task", description = "",
    params(
        ("id" = schema::Uid, Path, description = "Id of the task.", example = "1548722401845518337"),
    ),
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "The task, which is queued again.", body = Task),
        (status = 404, response = openapi::Missing),
        (status = 409, response = openapi::Conflict),
        openapi::Failures,
    )
)]
pub(crate) async fn retry_task(
    State(app): State<Arc<App>>,
    _: Authenticated<Admin>,
    id: PathResult<String>,
    request: Request,
) -> HandlerResult<Json<Task>> {
    let (request, _) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    json::reject_body(&request)?;
    let task = ops::retry_task::retry_task(&app, path::task_id(id)?).await?;
    Ok(Json(render::task(task)))
}
