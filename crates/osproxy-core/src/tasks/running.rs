//! The running tasks of the engine.

use std::{collections::HashMap, time::Duration};

use osproxy_meta::TaskKind;
use tokio::task::{Id, JoinError, JoinSet};

/// Running tasks and their kinds.
#[derive(Default)]
pub(super) struct RunningTasks {
    set: JoinSet<()>,
    kinds: HashMap<Id, TaskKind>,
}

impl RunningTasks {
    /// Number of running tasks of a kind.
    pub(super) fn count(&self, kind: TaskKind) -> usize {
        self.kinds.values().filter(|running| **running == kind).count()
    }

    pub(super) fn spawn(&mut self, kind: TaskKind, work: impl Future<Output = ()> + Send + 'static) {
        let id = self.set.spawn(work).id();
        self.kinds.insert(id, kind);
    }

    /// Waits until a task has ended, normally or by a panic. Returns `false` if no task is running.
    pub(super) async fn wait_for_one(&mut self) -> bool {
        let Some(ended) = self.set.join_next_with_id().await else {
            return false;
        };
        let kind = self.kinds.remove(&ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id));
        if let Err(error) = ended {
            let kind = kind.map(TaskKind::name);
            tracing::error!(kind, %error, "a task ended without a result; it will run again when its lease expires");
        }
        true
    }
}

pub(crate) fn millis(duration: Duration) -> i64 {
    duration.as_millis().try_into().unwrap_or(i64::MAX)
}
