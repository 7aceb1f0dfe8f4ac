//! Tasks: durable background work, the engine that runs it, and a handler for each kind.
//!
//! A task is enqueued in the transaction that makes it necessary. The engine claims it with a
//! lease, renews the lease while the handler runs, and records the result. If the process dies,
//! another process takes the task over when the lease expires. Handlers must be idempotent, because
//! a task may run more than once.

pub mod engine;
mod handler;
pub mod handlers;
mod log_throttle;
mod notifier;
mod running;

pub use engine::{Engine, EngineSettings};
pub use handler::{Registry, TaskContext, TaskError, TaskHandler};
pub use notifier::TaskNotifier;
pub(crate) use running::millis;

use osproxy_meta::NewTask;
use osproxy_types::uid::Uid;

use crate::{App, Result};

fn new_task<H: TaskHandler>(app: &App, id: Uid, payload: &H::Payload) -> NewTask {
    // If the payload cannot be serialized, store an empty payload: parsing it fails when the task
    // runs, and the task becomes dead.
    let payload = serde_json::to_string(payload).unwrap_or_default();
    NewTask { id: id.get(), kind: H::KIND, payload, max_attempts: app.limits.max_task_attempts }
}

/// Enqueues a task in a separate transaction, and wakes the task engine of this node. Returns the
/// id of the task.
pub async fn enqueue<H: TaskHandler>(app: &App, payload: &H::Payload) -> Result<i64> {
    let new = new_task::<H>(app, app.uids.next().await?, payload);
    let id = new.id;
    app.meta.tasks.enqueue(new, None).await?;
    app.task_notifier.notify_node();
    Ok(id)
}
