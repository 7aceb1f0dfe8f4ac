//! `osproxy.v1.TaskService`

use std::sync::Arc;

use osproxy_api::grpc::v1::{
    self, GetTaskRequest, GetTaskResponse, ListTasksRequest, ListTasksResponse, RetryTaskRequest, Task,
    TaskAttempt, task_service_server::TaskService,
};
use osproxy_core::{
    App, Error, Result,
    ops::{
        self,
        describe_task::{Attempt, AttemptOutcome},
        list_tasks::{TaskFilter, TaskState},
    },
};
use osproxy_types::{scope::Scope, uid::Uid};
use tonic::Request;

use super::{RpcResult, caller, parse, render, status::reply};

pub(super) struct Service(pub(super) Arc<App>);

#[tonic::async_trait]
impl TaskService for Service {
    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> RpcResult<ListTasksResponse> {
        let result = async {
            caller(&request, Scope::Admin)?;
            let request = request.into_inner();
            let limit = parse::page_size(request.page_size)?;
            let state = state(request.state)?;
            // No kind contains NUL, and some databases reject NUL in a parameter.
            if request.kind.contains('\0') {
                return Err(Error::invalid("`kind` must not contain NUL").with_field("kind"));
            }
            let kind = Some(request.kind.as_str()).filter(|kind| !kind.is_empty());
            let name = state.map(TaskState::name).unwrap_or_default();
            let filters = ["tasks", &name, kind.unwrap_or_default()];
            let before = parse::position(&self.0, &filters, &request.page_token)?;
            let filter = TaskFilter { state, kind };
            let page = ops::list_tasks::list_tasks(&self.0.tasks, filter, before, limit).await?;
            let next = page.next.map(|next| self.0.links.sign_cursor(&filters, &next)).transpose()?;
            Ok(ListTasksResponse {
                tasks: page.tasks.into_iter().map(render::task).collect(),
                next_page_token: next.unwrap_or_default(),
            })
        }
        .await;
        reply(result)
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> RpcResult<GetTaskResponse> {
        let result = async {
            caller(&request, Scope::Admin)?;
            let id = id(&request.into_inner().id)?;
            let (task, attempts) = ops::describe_task::describe_task(&self.0.tasks, id).await?;
            let history = attempts.into_iter().map(attempt).collect();
            Ok(GetTaskResponse { task: Some(render::task(task)), history })
        }
        .await;
        reply(result)
    }

    async fn retry_task(&self, request: Request<RetryTaskRequest>) -> RpcResult<Task> {
        let result = async {
            caller(&request, Scope::Admin)?;
            let id = id(&request.into_inner().id)?;
            let task = ops::retry_task::retry_task(&self.0.tasks, id).await?;
            Ok(render::task(task))
        }
        .await;
        reply(result)
    }
}

/// Parses a task id, which has the format of a uid.
fn id(text: &str) -> Result<i64> {
    let wrong = |_| Error::invalid("`id` must be a positive decimal number").with_field("id");
    Ok(text.parse::<Uid>().map_err(wrong)?.get())
}

fn state(number: i32) -> Result<Option<TaskState>> {
    Ok(match parse::enum_value::<v1::TaskState>("state", number)? {
        v1::TaskState::Unspecified => None,
        v1::TaskState::Queued => Some(TaskState::Queued),
        v1::TaskState::Running => Some(TaskState::Running),
        v1::TaskState::Done => Some(TaskState::Done),
        v1::TaskState::Dead => Some(TaskState::Dead),
    })
}

fn attempt(attempt: Attempt) -> TaskAttempt {
    TaskAttempt {
        number: attempt.number.unsigned_abs(),
        lease_owner: attempt.lease_owner,
        started_at: Some(render::timestamp(attempt.started_at)),
        ended_at: attempt.ended_at.map(render::timestamp),
        outcome: attempt.outcome.map(AttemptOutcome::name).unwrap_or_default(),
        error: attempt.error.unwrap_or_default(),
    }
}
