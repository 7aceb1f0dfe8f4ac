use std::time::Duration;

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::task::TaskTracker;

/// Work that outlives the request that caused it, and has a runtime that is not the one of connections: at each of its steps
/// it would have to wait there for its turn among thousands of them.
#[derive(Debug)]
pub struct Background {
    runtime: Handle,
    tasks: TaskTracker,
}

impl Background {
    /// On the runtime that this is called on.
    pub(super) fn here() -> Self {
        Self { runtime: Handle::current(), tasks: TaskTracker::new() }
    }

    /// Begins something. It goes on when what this gives is dropped.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn_on(work, &self.runtime)
    }

    /// Begins something that changes nothing, and that nobody waits for when the node stops.
    pub(super) fn detach<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(work)
    }

    /// Waits as long as `patience` for all of it to end; `false`: it did not.
    pub async fn end(&self, patience: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(patience, self.tasks.wait()).await.is_ok()
    }
}
