//! Work that outlives the request that started it.

use std::time::Duration;

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::task::TaskTracker;

use crate::{boxed_future, events::EventSource};

/// Spawns work that outlives the request that started it. The work runs on the runtime for
/// background work. On the runtime that serves connections, each step would wait behind thousands
/// of connections.
#[derive(Debug)]
pub struct DetachedWork {
    runtime: Handle,
    tasks: TaskTracker,
}

impl DetachedWork {
    /// Creates a value that spawns work on the current runtime.
    pub(crate) fn on_current_runtime() -> Self {
        Self { runtime: Handle::current(), tasks: TaskTracker::new() }
    }

    /// Spawns `work`, which inherits the source of events. Dropping the returned handle does not cancel the work. [`Self::wait_idle`]
    /// waits until the work has ended.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn_on(EventSource::current().scope(work), &self.runtime)
    }

    /// Like [`Self::spawn`], but runs `work` on the current runtime: for work that waits for the
    /// bytes of a connection.
    pub fn spawn_here<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn(EventSource::current().scope(work))
    }

    /// Waits until all work started with [`Self::spawn`] has ended. Returns `false` if some of it
    /// is still running after `timeout`.
    #[boxed_future]
    pub async fn wait_idle(&self, timeout: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok()
    }
}
