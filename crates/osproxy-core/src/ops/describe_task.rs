//! Describe a task.

use osproxy_api::ErrorCode;

pub use osproxy_meta::{Attempt, AttemptOutcome, TaskRecord};

use super::TaskOps;
use crate::{Error, Result, boxed_future};

/// Returns a task and all its attempts.
#[boxed_future]
pub async fn describe_task(tasks: &TaskOps, id: i64) -> Result<(TaskRecord, Vec<Attempt>)> {
    let unknown = || Error::new(ErrorCode::TaskNotFound, "there is no task with this id");
    tasks.db.find(id).await?.ok_or_else(unknown)
}
