//! Let a task that was given up be tried again.

use osproxy_api::ErrorCode;

use super::describe_task::describe_task;
use crate::{
    Error, Result,
    app::App,
    meta::{Task, TaskState},
};

/// Makes a dead task due now, for as many attempts as a new one has.
pub async fn retry_task(app: &App, id: i64) -> Result<Task> {
    let (task, _) = describe_task(app, id).await?;
    let refused = |state: TaskState| {
        let message = format!("only a task that is dead can be tried again; this one is {}", state.name());
        Error::new(ErrorCode::TaskNotDead, message)
    };
    if task.state != TaskState::Dead {
        return Err(refused(task.state));
    }
    let is_due = app.meta.retry_task(id, app.limits.task_attempts).await?;
    let (task, _) = describe_task(app, id).await?;
    if !is_due {
        // Somebody else was faster, and it runs already.
        return Err(refused(task.state));
    }
    app.task_enqueued_elsewhere();
    Ok(task)
}
