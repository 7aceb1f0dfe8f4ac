use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, app::App, meta::DbErr};

/// One kind of background work.
///
/// The engine calls [`run`](Self::run) with the payload of a task that it has claimed, and drops the future when the
/// lease was lost or the process has to stop. A task may run again after it was cut off at any point, or beside a run
/// that is believed dead: look at what is there, and do what is missing.
pub trait TaskHandler: Send + Sync + 'static {
    /// The name of the kind, as it stands in the database and in lists. Never changes once released.
    const KIND: &'static str;
    /// How many tasks of the kind run at once on a node.
    const CONCURRENCY: usize = 1;
    /// For work that comes again and again: the time from one end to the next begin. There is one task of such a kind,
    /// it is due at every start, and its payload is `()`.
    const EVERY: Option<Duration> = None;
    /// Of work that comes again and again: whether there is a task for each store, which runs where that is at hand.
    const FOR_STORE: bool = false;
    /// What a task says of its work.
    type Payload: Serialize + DeserializeOwned + Send + 'static;

    /// Does the work.
    fn run(
        &self,
        context: &TaskContext,
        payload: Self::Payload,
    ) -> impl Future<Output = Result<(), TaskError>> + Send;
}

/// What a handler works with.
pub struct TaskContext {
    /// The node.
    pub app: Arc<App>,
    /// Number of the task.
    pub task_id: i64,
    /// Which attempt this is, from 1 on.
    pub attempt: u32,
    /// The store whose objects the work is on, if it is.
    pub store: Option<String>,
}

/// Why a task was not done.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// It may go better later: it is tried again, with growing delays, until its attempts are used up.
    #[error(transparent)]
    Retry(Box<dyn std::error::Error + Send + Sync>),
    /// Trying again is of no use: it is given up at once.
    #[error(transparent)]
    Fail(Box<dyn std::error::Error + Send + Sync>),
}

impl TaskError {
    /// For what may go better later.
    pub fn retry(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Retry(error.into())
    }

    /// For what will not.
    pub fn fail(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Fail(error.into())
    }
}

impl From<Error> for TaskError {
    /// Databases and stores come back.
    fn from(error: Error) -> Self {
        Self::retry(error)
    }
}

impl From<DbErr> for TaskError {
    fn from(error: DbErr) -> Self {
        Self::retry(error)
    }
}

impl From<osproxy_storage::Error> for TaskError {
    fn from(error: osproxy_storage::Error) -> Self {
        Self::retry(error)
    }
}

/// A handler whose types are its own affair.
trait AnyHandler: Send + Sync {
    fn run<'a>(&'a self, context: &'a TaskContext, payload: &'a str) -> BoxFuture<'a, Result<(), TaskError>>;
}

impl<H: TaskHandler> AnyHandler for H {
    fn run<'a>(&'a self, context: &'a TaskContext, payload: &'a str) -> BoxFuture<'a, Result<(), TaskError>> {
        Box::pin(async move {
            let payload = serde_json::from_str(payload).map_err(TaskError::fail)?;
            TaskHandler::run(self, context, payload).await
        })
    }
}

/// How the engine treats one kind.
#[derive(Clone)]
pub(super) struct Registered {
    handler: Arc<dyn AnyHandler>,
    pub(super) concurrency: usize,
    pub(super) every: Option<Duration>,
    pub(super) for_store: bool,
}

impl Registered {
    pub(super) async fn run(&self, context: &TaskContext, payload: &str) -> Result<(), TaskError> {
        self.handler.run(context, payload).await
    }
}

/// The handlers that a node has, by their kinds.
#[derive(Clone, Default)]
pub struct Registry {
    pub(super) kinds: BTreeMap<&'static str, Registered>,
}

impl Registry {
    /// Adds a handler. Of two with the same kind the later one counts.
    #[must_use]
    pub fn with<H: TaskHandler>(mut self, handler: H) -> Self {
        let registered = Registered {
            handler: Arc::new(handler),
            concurrency: H::CONCURRENCY.max(1),
            every: H::EVERY,
            for_store: H::FOR_STORE,
        };
        self.kinds.insert(H::KIND, registered);
        self
    }
}
