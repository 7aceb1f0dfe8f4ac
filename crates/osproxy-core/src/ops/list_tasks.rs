//! List tasks, page by page.

pub use osproxy_meta::{TaskFilter, TaskRecord, TaskState};

use super::TaskOps;
use crate::Result;
use crate::boxed_future;

/// A page of tasks.
#[derive(Debug)]
pub struct TaskPage {
    /// The tasks, newest first.
    pub tasks: Vec<TaskRecord>,
    /// Id of the last task on this page; `None` if this is the last page.
    pub next: Option<i64>,
}

/// Returns up to `limit` tasks older than the task with the id `before`, newest first.
#[boxed_future]
pub async fn list_tasks<'a>(
    tasks: &'a TaskOps,
    filter: TaskFilter<'a>,
    before: Option<i64>,
    limit: u64,
) -> Result<TaskPage> {
    // Read one task more than `limit`, to see whether there is another page.
    let mut tasks = tasks.db.list(filter, before, limit + 1).await?;
    let has_more = tasks.len() as u64 > limit;
    if has_more {
        tasks.pop();
    }
    let next = tasks.last().filter(|_| has_more).map(|task| task.id);
    Ok(TaskPage { tasks, next })
}
