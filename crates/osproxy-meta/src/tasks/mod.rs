//! Tasks: durable background work. All times come from the database's clock, so that nodes agree on
//! leases.

pub(crate) mod kind;
pub(crate) mod lease;
pub(crate) mod list;
pub(crate) mod purge;
pub(crate) mod queue;

use std::sync::Arc;

use crate::{
    TaskKind,
    db::{
        database::Database,
        entities::{task, task_attempt},
    },
};

pub use task::State as TaskState;
pub use task_attempt::Outcome as AttemptOutcome;

/// Tasks: their queue, leases and attempts.
#[derive(Clone)]
pub struct TaskDb {
    pub(crate) db: Arc<Database>,
}

/// A task to enqueue.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// Unique id.
    pub id: i64,
    /// Kind.
    pub kind: TaskKind,
    /// JSON for the handler.
    pub payload: String,
    /// Number of attempts before the task is dead.
    pub max_attempts: u32,
}

/// A task that this process is allowed to run until the lease expires.
#[derive(Clone, Debug)]
pub struct ClaimedTask {
    /// Task id.
    pub id: i64,
    /// Name of the kind, which selects the handler.
    pub kind: String,
    /// JSON for the handler.
    pub payload: String,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// Maximum number of attempts.
    pub max_attempts: u32,
    /// The store whose objects the task works on, if any.
    pub store: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum AttemptResult {
    /// It succeeded.
    Done,
    /// It succeeded; run the task again after this delay, in milliseconds.
    Repeat(i64),
    /// It failed with this error; retry after this delay, in milliseconds.
    Retry(String, i64),
    /// It failed with this error; retrying is useless.
    Fail(String),
    /// The process is shutting down. Another process can run the task immediately.
    HandedBack,
}

/// A task, as recorded.
#[derive(Clone, Debug)]
pub struct TaskRecord {
    /// Task id.
    pub id: i64,
    /// Name of the kind, which selects the handler.
    pub kind: String,
    /// JSON for the handler.
    pub payload: String,
    /// Current state.
    pub state: TaskState,
    /// Earliest start, in milliseconds since the Unix epoch.
    pub run_at: i64,
    /// Number of attempts so far.
    pub attempts: i32,
    /// Maximum number of attempts.
    pub max_attempts: i32,
    /// The process that holds the lease.
    pub lease_owner: Option<String>,
    /// End of the lease, in milliseconds since the Unix epoch.
    pub lease_until: Option<i64>,
    /// The most recent error of an attempt. A successful attempt clears it.
    pub last_error: Option<String>,
    /// Creation time, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When the task became done or dead, in milliseconds since the Unix epoch.
    pub ended_at: Option<i64>,
    /// Whether the task is recurring: it runs again and again, and its attempts are not limited.
    pub is_recurring: bool,
}

/// One attempt to run a task.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Number of the attempt, from 1.
    pub number: i32,
    /// The process that ran it.
    pub lease_owner: String,
    /// Start time, in milliseconds since the Unix epoch.
    pub started_at: i64,
    /// End time, in milliseconds since the Unix epoch; `None` while it runs.
    pub ended_at: Option<i64>,
    /// Outcome; `None` while it runs.
    pub outcome: Option<AttemptOutcome>,
    /// Error of the attempt.
    pub error: Option<String>,
}
