//! Tell what is known of a piece of background work.

use osproxy_api::ErrorCode;

pub use crate::meta::{Attempt, AttemptOutcome, Task};

use crate::{Error, Result, app::App};

/// A task, and every time that it was begun.
pub async fn describe_task(app: &App, id: i64) -> Result<(Task, Vec<Attempt>)> {
    let unknown = || Error::new(ErrorCode::TaskNotFound, "there is no task with this number");
    app.meta.task(id).await?.ok_or_else(unknown)
}
