use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use osproxy_storage::Durations;

use super::{ByLabel, Page};

/// The result of a task attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
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

impl Outcome {
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
pub struct Tasks(ByLabel<&'static str, Kind>);

#[derive(Debug, Default)]
struct Kind {
    attempt_counts: ByLabel<Outcome, AtomicU64>,
    durations: Durations,
}

impl Tasks {
    /// Counts an attempt that has ended.
    pub fn ended(&self, kind: &'static str, outcome: Outcome, took: Duration) {
        let of_kind = self.0.of(&kind);
        of_kind.durations.observe(took);
        of_kind.attempt_counts.of(&outcome).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn tell(&self, page: &mut Page) {
        let kinds = self.0.all();
        let attempts = kinds.iter().flat_map(|(kind, counted)| {
            let outcomes = counted.attempt_counts.all().into_iter();
            outcomes.map(|(outcome, count)| {
                let labels = vec![("kind", (*kind).to_owned()), ("outcome", outcome.name().to_owned())];
                (labels, count.load(Ordering::Relaxed))
            })
        });
        page.counter("task_attempts", "Finished task attempts on this node", attempts);
        page.durations(
            "task_duration_seconds",
            "Duration of task attempts",
            kinds
                .iter()
                .map(|(kind, counted)| (vec![("kind", (*kind).to_owned())], counted.durations.counted())),
        );
    }
}
