//! List background work, page by page.

pub use crate::meta::{Task, TaskFilter, TaskState};

use crate::{Result, app::App};

/// Some tasks, and how to get those behind them.
#[derive(Debug)]
pub struct TaskPage {
    /// The tasks, the newest first.
    pub tasks: Vec<Task>,
    /// The number of the last of them, if there are more behind it.
    pub next: Option<i64>,
}

/// Up to `limit` tasks that are older than `before`, a task's number: the newest first.
pub async fn list_tasks(
    app: &App,
    filter: TaskFilter<'_>,
    before: Option<i64>,
    limit: u64,
) -> Result<TaskPage> {
    // One more, to see whether there are more.
    let mut tasks = app.meta.list_tasks(filter, before, limit + 1).await?;
    let has_more = tasks.len() as u64 > limit;
    if has_more {
        tasks.pop();
    }
    let next = tasks.last().filter(|_| has_more).map(|task| task.id);
    Ok(TaskPage { tasks, next })
}
