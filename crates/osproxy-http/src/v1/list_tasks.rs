use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use osproxy_api::v1::{self, PREFIX, Tasks};
use osproxy_core::{
    App, Error,
    ops::list_tasks::{self, TaskFilter, TaskState},
};

use super::{pagination, query::Query, render};
use crate::{
    extract::auth::{Admin, Authenticated},
    openapi,
    respond::error::HandlerResult,
};

/// Parameters that filter tasks. A cursor is bound to their values in this order.
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
        openapi::Failures,
    )
)]
pub(crate) async fn list_tasks(
    State(app): State<Arc<App>>,
    _: Authenticated<Admin>,
    uri: Uri,
) -> HandlerResult<Json<Tasks>> {
    let query = Query::parse(uri.query(), &["state", "kind", "limit", "cursor"])?;
    let limit = pagination::limit(&query)?;
    let state = query.one_of("state", &STATES, TaskState::name)?;
    // No kind contains NUL, and some databases reject it in a query.
    if query.get("kind").is_some_and(|kind| kind.contains('\0')) {
        return Err(Error::invalid("`kind` must not contain NUL").with_field("kind").into());
    }
    let filter = TaskFilter { state, kind: query.get("kind") };
    let filters = ["tasks"].into_iter().chain(FILTERS.map(|name| query.get(name).unwrap_or_default()));
    let filters: Vec<_> = filters.collect();
    let before = pagination::parse_cursor(&app, &filters, &query)?;
    let page = list_tasks::list_tasks(&app, filter, before, limit).await?;
    Ok(Json(Tasks {
        tasks: page.tasks.into_iter().map(render::task).collect(),
        next_cursor: page.next.map(|next| app.sign_cursor(&filters, &next)).transpose()?,
    }))
}
