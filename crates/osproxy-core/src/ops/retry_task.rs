//! Retry a dead task.

use osproxy_api::ErrorCode;
use osproxy_meta::{TaskRecord, TaskState};

use super::{TaskOps, describe_task::describe_task};
use crate::{Error, Result, boxed_future};

/// Makes a dead task due now. The task gets the configured maximum number of attempts again. Fails
/// with `TaskNotDead` if the task is in another state.
#[boxed_future]
pub async fn retry_task(tasks: &TaskOps, id: i64) -> Result<TaskRecord> {
    let (task, _) = describe_task(tasks, id).await?;
    let refused = |state: TaskState| {
        let message = format!("only a dead task can be retried; this one is {}", state.name());
        Error::new(ErrorCode::TaskNotDead, message)
    };
    if task.state != TaskState::Dead {
        return Err(refused(task.state));
    }
    let is_due = tasks.db.retry(id, tasks.limits.max_task_attempts).await?;
    let (task, _) = describe_task(tasks, id).await?;
    if !is_due {
        // A concurrent request has retried the task, and a node has claimed it.
        return Err(refused(task.state));
    }
    tasks.task_notifier.notify_cluster();
    Ok(task)
}
