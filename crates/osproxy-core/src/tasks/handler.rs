//! The trait of task handlers, and their registry.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use osproxy_meta::{MetaError, TaskKind};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use crate::{App, Error};

/// One kind of task.
///
/// The engine calls [`run`](Self::run) with the payload of a claimed task, and drops the future
/// when the lease is lost or the process must stop. So a run may be cut off at any point, and a new
/// run may start while an old run that lost its lease is still active. Every run must check what
/// exists, and do only what is missing.
pub trait TaskHandler: Send + Sync + 'static {
    /// The kind. Its name must never change after a release.
    const KIND: TaskKind;
    /// Maximum tasks of this kind that run at the same time on a node.
    const CONCURRENCY: usize = 1;
    /// The time from the end of one run to the start of the next, for a recurring task; `None` for
    /// other tasks. A recurring kind has one task (with [`PER_STORE`](Self::PER_STORE), one per
    /// store). The task is due whenever a node starts, and its payload is `()`.
    const INTERVAL: Option<Duration> = None;
    /// Whether a recurring kind has one task per store, which runs on a node that has the store.
    const PER_STORE: bool = false;
    /// The payload of a task.
    type Payload: Serialize + DeserializeOwned + Send + 'static;

    /// Runs a task.
    fn run(
        &self,
        context: &TaskContext,
        payload: Self::Payload,
    ) -> impl Future<Output = Result<(), TaskError>> + Send;
}

/// What a handler needs to run a task.
pub struct TaskContext {
    /// The node.
    pub app: Arc<App>,
    /// Id of the task, for log lines.
    pub task_id: i64,
    /// Number of this attempt, 1-based.
    pub attempt: u32,
    /// The store that the task works on, if it has one.
    pub store: Option<String>,
    /// Cancelled when the process stops. A task that runs for a long time then ends with
    /// [`TaskError::HandBack`].
    pub stop: CancellationToken,
}

/// The error of a task. Decides whether the task is retried; a recurring task always runs again.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The task may succeed later. It is retried with growing delays, until its attempts are used
    /// up.
    #[error(transparent)]
    Retry(Box<dyn std::error::Error + Send + Sync>),
    /// The task cannot succeed. It becomes dead immediately.
    #[error(transparent)]
    Fail(Box<dyn std::error::Error + Send + Sync>),
    /// The process stops before the work is done. The task is due at once, on another node or after
    /// the next start. Does not count as an attempt.
    #[error("the process stops")]
    HandBack,
}

impl TaskError {
    /// An error that may go away.
    pub fn retry(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Retry(error.into())
    }

    /// An error that will not go away.
    pub fn fail(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Fail(error.into())
    }
}

impl From<Error> for TaskError {
    /// Treats every error as temporary, because errors of databases and stores usually are.
    fn from(error: Error) -> Self {
        Self::retry(error)
    }
}

impl From<MetaError> for TaskError {
    fn from(error: MetaError) -> Self {
        Self::retry(error)
    }
}

impl From<osproxy_storage::Error> for TaskError {
    fn from(error: osproxy_storage::Error) -> Self {
        Self::retry(error)
    }
}

/// The object-safe form of [`TaskHandler`].
trait DynTaskHandler: Send + Sync {
    fn run<'a>(&'a self, context: &'a TaskContext, payload: &'a str) -> BoxFuture<'a, Result<(), TaskError>>;
}

impl<H: TaskHandler> DynTaskHandler for H {
    fn run<'a>(&'a self, context: &'a TaskContext, payload: &'a str) -> BoxFuture<'a, Result<(), TaskError>> {
        Box::pin(async move {
            let payload = serde_json::from_str(payload).map_err(TaskError::fail)?;
            TaskHandler::run(self, context, payload).await
        })
    }
}

/// A registered handler.
#[derive(Clone)]
pub(super) struct RegisteredHandler {
    handler: Arc<dyn DynTaskHandler>,
    pub(super) concurrency: usize,
    pub(super) interval: Option<Duration>,
    pub(super) per_store: bool,
}

impl RegisteredHandler {
    pub(super) async fn run(&self, context: &TaskContext, payload: &str) -> Result<(), TaskError> {
        self.handler.run(context, payload).await
    }
}

/// The handlers of a node, by kind.
#[derive(Clone, Default)]
pub struct Registry {
    pub(super) kinds: BTreeMap<TaskKind, RegisteredHandler>,
}

impl Registry {
    /// Adds a handler. Replaces an earlier handler of the same kind.
    #[must_use]
    pub fn with<H: TaskHandler>(mut self, handler: H) -> Self {
        let registered = RegisteredHandler {
            handler: Arc::new(handler),
            concurrency: H::CONCURRENCY.max(1),
            interval: H::INTERVAL,
            per_store: H::PER_STORE,
        };
        self.kinds.insert(H::KIND, registered);
        self
    }
}
