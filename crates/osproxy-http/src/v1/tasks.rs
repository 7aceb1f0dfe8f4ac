//! Background tasks.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::Uri,
};
use osproxy_api::{
    schema,
    v1::{self, PREFIX, Task, TaskAttempt, TaskDetails, Tasks},
};
use osproxy_core::{
    Error,
    links::Links,
    ops::{
        self, TaskOps,
        describe_task::{Attempt, AttemptOutcome},
        list_tasks::{TaskFilter, TaskState},
    },
};

use super::{
    pagination,
    path::{self, PathResult},
    query::Query,
    render,
    time_format::format_time,
};
use crate::{
    extract::auth::{Admin, Authenticated},
    middleware::reject_body,
    openapi,
    respond::error::HandlerResult,
};

/// Parameters that filter tasks. A cursor is valid only for the values for which it was issued.
const FILTERS: [&str; 2] = ["state", "kind"];

const STATES: [TaskState; 4] = [TaskState::Queued, TaskState::Running, TaskState::Done, TaskState::Dead];

/// `GET /tasks`
#[utoipa::path(
    get, path = "/tasks", context_path = PREFIX, tag = "Service", operation_id = "v1_list_tasks",
    summary = "List background tasks", description = "",
    params(
        ("state" = Option<v1::TaskState>, Query, description = "Only tasks in this state."),
        ("kind" = Option<String>, Query, description = "Only tasks of this kind.", pattern = r"^[^\x00]*$", example = "merge_parts"),
        openapi::PageQuery,
    ),
    security(("api_key" = ["admin"])),
    responses(
        (status = 200, description = "A page of tasks, newest first.", body = Tasks),
        openapi::CommonErrors,
    )
)]
pub(crate) async fn list_tasks(
    State(tasks): State<Arc<TaskOps>>,
    State(links): State<Arc<Links>>,
    _: Authenticated<Admin>,
    uri: Uri,
) -> HandlerResult<Json<Tasks>> {
    let query = Query::parse(uri.query(), &["state", "kind", "limit", "cursor"])?;
    let limit = pagination::limit(&query)?;
    let state = query.one_of("state", &STATES, TaskState::name)?;
    // No kind contains NUL, and some databases reject a query with NUL.
    if query.get("kind").is_some_and(|kind| kind.contains('\0')) {
        return Err(Error::invalid("`kind` must not contain NUL").with_field("kind").into());
    }
    let filter = TaskFilter { state, kind: query.get("kind") };
    let filters = ["tasks"].into_iter().chain(FILTERS.map(|name| query.get(name).unwrap_or_default()));
    let filters: Vec<_> = filters.collect();
    let before = pagination::parse_cursor(&links, &filters, &query)?;
    let page = ops::list_tasks::list_tasks(&tasks, filter, before, limit).await?;
    Ok(Json(Tasks {
        tasks: page.tasks.into_iter().map(render::task).collect(),
        next_cursor: page.next.map(|next| links.sign_cursor(&filters, &next)).transpose()?,
    }))
}

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
        openapi::CommonErrors,
    )
)]
pub(crate) async fn describe_task(
    State(tasks): State<Arc<TaskOps>>,
    _: Authenticated<Admin>,
    id: PathResult<String>,
    uri: Uri,
) -> HandlerResult<Json<TaskDetails>> {
    Query::parse(uri.query(), &[])?;
    let (task, attempts) = ops::describe_task::describe_task(&tasks, path::task_id(id)?).await?;
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
        openapi::CommonErrors,
    )
)]
pub(crate) async fn retry_task(
    State(tasks): State<Arc<TaskOps>>,
    _: Authenticated<Admin>,
    id: PathResult<String>,
    request: Request,
) -> HandlerResult<Json<Task>> {
    let (request, _) = request.into_parts();
    Query::parse(request.uri.query(), &[])?;
    reject_body(&request.headers)?;
    let task = ops::retry_task::retry_task(&tasks, path::task_id(id)?).await?;
    Ok(Json(render::task(task)))
}
