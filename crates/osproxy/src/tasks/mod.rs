//! Background work: durable tasks, the engine that runs them, and a handler for each kind.
//!
//! A task is enqueued in the transaction that makes it necessary. The engine claims it by a lease, renews the lease while
//! the handler runs, and records how it ended. A task whose process died is taken over when its lease is over.
//! Handlers must be idempotent: each may run twice.

pub mod engine;
mod handler;
pub mod handlers;
mod running;
mod troubles;

pub use engine::{Engine, Settings};
pub use handler::{Registry, TaskContext, TaskError, TaskHandler};

use std::sync::Arc;

use crate::{
    Result,
    app::App,
    meta::{NewTask, TaskForBlob},
    uid::Uid,
};

/// A task of the kind of `H`, to be enqueued under a number that nobody has.
pub fn task<H: TaskHandler>(app: &App, id: Uid, payload: &H::Payload) -> NewTask {
    new_task::<H>(id, payload, app.limits.task_attempts)
}

/// As [`task`], for a blob whose number only the transaction that enqueues it knows.
pub fn task_for_blob<H: TaskHandler>(app: &App, id: Uid, payload: fn(i64) -> H::Payload) -> TaskForBlob {
    let max_attempts = app.limits.task_attempts;
    Arc::new(move |blob_id| new_task::<H>(id, &payload(blob_id), max_attempts))
}

fn new_task<H: TaskHandler>(id: Uid, payload: &H::Payload, max_attempts: u32) -> NewTask {
    // What cannot be written cannot be read either: the handler's task is given up, and says so.
    let payload = serde_json::to_string(payload).unwrap_or_default();
    NewTask { id: id.get(), kind: H::KIND, payload, max_attempts }
}

/// Enqueues a task that no other change makes necessary, wakes the engine, and gives the task's number.
pub async fn enqueue<H: TaskHandler>(app: &App, payload: &H::Payload) -> Result<i64> {
    let new = task::<H>(app, app.next_uid().await?, payload);
    let id = new.id;
    app.meta.enqueue(new, None).await?;
    app.task_enqueued();
    Ok(id)
}
