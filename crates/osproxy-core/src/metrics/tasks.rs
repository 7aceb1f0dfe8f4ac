use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use osproxy_meta::TaskKind;
use osproxy_storage::DurationHistogram;

use super::{ByLabel, MetricsPage};

/// The result of a task attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskOutcome {
    /// Succeeded.
    Done,
    /// Failed; will be retried.
    Failed,
    /// Failed; the task is dead.
    Dead,
    /// Interrupted by the shutdown of the process.
    HandedBack,
    /// Another process took over the lease.
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

/// Metrics of tasks by kind, of which there is a fixed number.
#[derive(Debug, Default)]
pub struct TaskMetrics(ByLabel<TaskKind, KindMetrics>);

#[derive(Debug, Default)]
struct KindMetrics {
    attempt_counts: ByLabel<TaskOutcome, AtomicU64>,
    durations: DurationHistogram,
}

impl TaskMetrics {
    /// Counts an attempt that has ended.
    pub fn count_attempt(&self, kind: TaskKind, outcome: TaskOutcome, took: Duration) {
        let of_kind = self.0.get_or_default(&kind);
        of_kind.durations.observe(took);
        of_kind.attempt_counts.get_or_default(&outcome).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn export(&self, page: &mut MetricsPage) {
        let kinds = self.0.all();
        let attempts = kinds.iter().flat_map(|(kind, counted)| {
            let outcomes = counted.attempt_counts.all().into_iter();
            outcomes.map(|(outcome, count)| {
                let labels = vec![("kind", kind.name().to_owned()), ("outcome", outcome.name().to_owned())];
                (labels, count.load(Ordering::Relaxed))
            })
        });
        page.counter("task_attempts", "Finished task attempts on this node", attempts);
        page.histogram(
            "task_duration_seconds",
            "Duration of task attempts",
            kinds.iter().map(|(kind, counted)| {
                (vec![("kind", kind.name().to_owned())], counted.durations.snapshot())
            }),
        );
    }
}
