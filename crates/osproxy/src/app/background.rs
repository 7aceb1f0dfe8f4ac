//! Work that outlives the request that started it.

use std::time::Duration;

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::task::TaskTracker;

/// Spawns work that outlives the request that started it, on the runtime that does not serve
/// connections: there, each step of the work would wait behind thousands of them.
#[derive(Debug)]
pub struct Background {
    runtime: Handle,
    tasks: TaskTracker,
}

impl Background {
    /// Spawns on the current runtime.
    pub(super) fn on_current_runtime() -> Self {
        Self { runtime: Handle::current(), tasks: TaskTracker::new() }
    }

    /// Spawns `work`. Dropping the handle does not cancel it, and [`wait_idle`](Self::wait_idle) waits for it.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn_on(work, &self.runtime)
    }

    /// Spawns `work` that changes nothing. The node stops without waiting for it.
    pub(super) fn spawn_detached<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(work)
    }

    /// Waits up to `patience` until all spawned work has ended. Returns whether it has.
    pub async fn wait_idle(&self, timeout: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok()
    }
}
