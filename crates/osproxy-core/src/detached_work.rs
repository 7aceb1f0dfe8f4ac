//! Work that outlives the request that started it.

use std::time::Duration;

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::task::TaskTracker;

/// Spawns work that outlives the request that started it. Uses the runtime for background work: on
/// the runtime that serves connections, each step would wait behind thousands of them.
#[derive(Debug)]
pub struct DetachedWork {
    runtime: Handle,
    tasks: TaskTracker,
}

impl DetachedWork {
    /// Spawns on the current runtime.
    pub(crate) fn on_current_runtime() -> Self {
        Self { runtime: Handle::current(), tasks: TaskTracker::new() }
    }

    /// Spawns `work`. Dropping the handle does not cancel it; [`Self::wait_idle`] waits for it.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn_on(work, &self.runtime)
    }

    /// Spawns `work` without side effects. Shutdown does not wait for it.
    pub(crate) fn spawn_detached<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(work)
    }

    /// Waits until all spawned work has ended. Returns `false` if it has not after `timeout`.
    pub async fn wait_idle(&self, timeout: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok()
    }
}
