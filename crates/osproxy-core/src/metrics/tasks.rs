use std::{fmt, time::Duration};

use osproxy_meta::TaskKind;
use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::{counter::Counter, family::Family},
};

use super::{
    Labels,
    encode::{EncodeMetrics, SharedHistogram},
};

/// The result of a task attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskOutcome {
    /// Succeeded.
    Done,
    /// Failed; will be retried.
    Failed,
    /// Failed; the task is dead.
    Dead,
    /// Interrupted by the shutdown of the process.
    HandedBack,
    /// The process lost the lease of the task.
    Lost,
}

impl TaskOutcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::HandedBack => "handed_back",
            Self::Lost => "lost",
        }
    }
}

/// Metrics of tasks, by kind. The number of kinds is fixed.
#[derive(Debug, Default)]
pub struct TaskMetrics {
    attempts: Family<Labels<2>, Counter>,
    durations: Family<Labels<1>, SharedHistogram>,
}

impl TaskMetrics {
    /// Counts an attempt that has ended.
    pub fn count_attempt(&self, kind: TaskKind, outcome: TaskOutcome, duration: Duration) {
        let (kind, outcome) = (("kind", kind.name()), ("outcome", outcome.name()));
        self.durations.get_or_create(&[kind]).observe(duration);
        self.attempts.get_or_create(&[kind, outcome]).inc();
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        encoder.encode_metric("task_attempts", "Finished task attempts on this node", &self.attempts)?;
        encoder.encode_metric("task_duration_seconds", "Duration of task attempts", &self.durations)
    }
}
