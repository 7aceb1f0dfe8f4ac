use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use osproxy_api::{
    schema,
    v1::{PREFIX, TaskAttempt, TaskDetails},
};
use osproxy_core::{
    App,
    ops::{
        self,
        describe_task::{Attempt, AttemptOutcome},
    },
};

use super::{
    path::{self, PathResult},
    query::Query,
    render,
    time_format::format_time,
};
use crate::{
    extract::auth::{Admin, Authenticated},
    openapi,
    respond::error::HandlerResult,
};

/// `GET /tasks/{id}`
#[utoipa::path(
    get, path = "/tasks/{id}", context_path = PREFIX, tag = "Service", operation_id = "v1_describe_task",
    summary = "Describe a task", description = "",
    params(
        ("id" = schema::Uid, Path, description = "Id of the task.", example = "1548722401845518337"),
    ),
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "The task with its attempts.", body = TaskDetails),
        (status = 404, response = openapi::Missing),
        openapi::Failures,
    )
)]
pub(crate) async fn describe_task(
    State(app): State<Arc<App>>,
    _: Authenticated<Admin>,
    id: PathResult<String>,
    uri: Uri,
) -> HandlerResult<Json<TaskDetails>> {
    Query::parse(uri.query(), &[])?;
    let (task, attempts) = ops::describe_task::describe_task(&app, path::task_id(id)?).await?;
    let history = attempts.into_iter().map(attempt).collect();
    Ok(Json(TaskDetails { task: render::task(task), history }))
}

fn attempt(attempt: Attempt) -> TaskAttempt {
    TaskAttempt {
        number: attempt.number,
        lease_owner: attempt.lease_owner,
        started_at: format_time(attempt.started_at),
        ended_at: attempt.ended_at.map(format_time),
        outcome: attempt.outcome.map(AttemptOutcome::name),
        error: attempt.error,
    }
}
