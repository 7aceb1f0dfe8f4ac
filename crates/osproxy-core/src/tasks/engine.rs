//! Claims tasks, runs their handlers, and records the results.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use osproxy_cluster::trace_context;
use osproxy_meta::{AttemptResult, ClaimedTask, NewTask, TaskKind};
use osproxy_types::error_chain;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    handler::{RegisteredHandler, Registry, TaskContext, TaskError},
    log_throttle::LogThrottle,
    running::{RunningTasks, millis},
};
use crate::{App, Error, LoadGuard, Result, metrics::TaskOutcome};

/// Maximum number of due tasks to read in one query.
const PAGE: u64 = 64;
/// Renewals per lease lifetime.
const RENEWALS: u32 = 3;
/// Maximum attempts of recurring tasks: so many that they never become dead.
const UNLIMITED: u32 = 1_000_000_000;

/// Timing of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineSettings {
    /// Lifetime of a lease. If a lease is not renewed in time, another process takes its task over.
    pub lease: Duration,
    /// How often to look for due tasks when no notification arrives.
    pub poll_interval: Duration,
    /// Delay after the first failure. Every further failure doubles the delay.
    pub initial_backoff: Duration,
    /// Maximum delay after a failure.
    pub max_backoff: Duration,
}

impl EngineSettings {
    /// Returns the delay in milliseconds after attempt number `attempt` has failed. The delay is a
    /// random value between half of the exponential backoff and the full backoff, so that tasks
    /// that failed together are not retried together.
    fn backoff_ms(&self, attempt: u32) -> i64 {
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let full = self.initial_backoff.saturating_mul(doubled).min(self.max_backoff);
        let mut random = [0; 2];
        // Without random numbers, use the full delay.
        let share = getrandom::fill(&mut random).map_or(u16::MAX, |()| u16::from_be_bytes(random));
        let half = millis(full) / 2;
        millis(full) - half + half.saturating_mul(share.into()) / i64::from(u16::MAX)
    }
}

/// The task engine of a process.
pub struct Engine {
    app: Arc<App>,
    registry: Registry,
    settings: EngineSettings,
    /// Suppresses repeated log lines while tasks cannot be claimed.
    log_throttle: LogThrottle,
}

impl Engine {
    /// Creates an engine that runs tasks with the handlers in `registry`.
    pub fn new(app: Arc<App>, registry: Registry, settings: EngineSettings) -> Self {
        Self { app, registry, settings, log_throttle: LogThrottle::default() }
    }

    /// Runs tasks until `stop` is cancelled. After that, claims no more tasks and waits for the
    /// running tasks to end. When `abort` is cancelled, hands back the tasks that are still
    /// running, so that they can be claimed again.
    pub async fn run(self, stop: CancellationToken, abort: CancellationToken) {
        let engine = Arc::new(self);
        let mut running = RunningTasks::default();
        let mut prepared = false;
        while !stop.is_cancelled() {
            prepared = prepared || engine.ensure_recurring().await;
            let pause = match engine.claim(&mut running, &stop, &abort).await {
                Ok(pause) => pause,
                Err(error) => {
                    engine.log_throttle.log("cannot poll for due tasks", &error);
                    engine.settings.poll_interval
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = engine.app.task_notifier.notified() => {}
                true = running.wait_for_one() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        while running.wait_for_one().await {}
    }

    /// Ensures that the tasks of every recurring kind exist and are due. Returns `false` if that
    /// fails.
    async fn ensure_recurring(&self) -> bool {
        for (kind, registered) in &self.registry.kinds {
            if registered.interval.is_none() {
                continue;
            }
            let stores = if registered.per_store {
                self.app.stores.names().into_iter().map(Some).collect()
            } else {
                vec![None]
            };
            for store in stores {
                let ensured = async {
                    let id = self.app.uids.next().await?.get();
                    let new =
                        NewTask { id, kind: *kind, payload: "null".to_owned(), max_attempts: UNLIMITED };
                    self.app.meta.tasks.ensure_recurring(new, store).await.map_err(Error::from)
                };
                if let Err(error) = ensured.await {
                    self.log_throttle.log("cannot enqueue a recurring task", &error);
                    return false;
                }
            }
        }
        true
    }

    /// Claims due tasks up to the concurrency limits, until `stop` is cancelled. Returns how long to
    /// wait before looking again.
    async fn claim(
        self: &Arc<Self>,
        running: &mut RunningTasks,
        stop: &CancellationToken,
        abort: &CancellationToken,
    ) -> Result<Duration> {
        loop {
            let free = |(kind, registered): (&TaskKind, &RegisteredHandler)| {
                (running.count(*kind) < registered.concurrency).then_some(*kind)
            };
            let kinds: Vec<_> = self.registry.kinds.iter().filter_map(free).collect();
            if kinds.is_empty() {
                // The engine looks again when a task ends.
                return Ok(self.settings.poll_interval);
            }
            let due = self.app.meta.tasks.due(&kinds, PAGE).await?;
            if due.is_empty() {
                let next = self.app.meta.tasks.next_due(&kinds).await?;
                let next = next.map(|next| Duration::from_millis(next.unsigned_abs()));
                return Ok(
                    next.map_or(self.settings.poll_interval, |next| next.min(self.settings.poll_interval))
                );
            }
            let mut claimed_any = false;
            for (id, kind) in due {
                let Some(registered) = self.registry.kinds.get(&kind) else {
                    continue;
                };
                if running.count(kind) >= registered.concurrency {
                    continue;
                }
                if stop.is_cancelled() {
                    return Ok(self.settings.poll_interval);
                }
                let lease = millis(self.settings.lease);
                let claimed = match self.app.meta.tasks.claim(id, &self.app.node_id, lease).await {
                    Ok(Some(claimed)) => claimed,
                    Ok(None) => continue,
                    // Continue with the other tasks: claiming them may succeed.
                    Err(error) => {
                        self.log_throttle.log("cannot claim a task", &error);
                        continue;
                    }
                };
                claimed_any = true;
                let (engine, registered) = (self.clone(), registered.clone());
                let (stop, abort) = (stop.clone(), abort.clone());
                running.spawn(kind, async move {
                    let began = Instant::now();
                    let span = trace_context::task_span(kind.name(), claimed.id, claimed.attempt);
                    let outcome =
                        engine.run_attempt(&registered, claimed, stop, abort).instrument(span).await;
                    engine.app.metrics.tasks.count_attempt(kind, outcome, began.elapsed());
                });
            }
            if !claimed_any {
                // Other nodes claimed all due tasks, or none of them can be claimed now.
                return Ok(self.settings.poll_interval);
            }
        }
    }

    /// Runs one attempt of a task and records the result.
    async fn run_attempt(
        &self,
        registered: &RegisteredHandler,
        claimed: ClaimedTask,
        stop: CancellationToken,
        abort: CancellationToken,
    ) -> TaskOutcome {
        let (task_id, kind, attempt) = (claimed.id, claimed.kind.as_str(), claimed.attempt);
        let (store, _busy) = (claimed.store.clone(), LoadGuard::task(&self.app.node));
        let context = TaskContext { app: self.app.clone(), task_id, attempt, store, stop };
        tracing::debug!(task_id, kind, attempt, "task started");
        let work = AssertUnwindSafe(registered.run(&context, &claimed.payload)).catch_unwind();
        let outcome = tokio::select! {
            outcome = work => outcome.unwrap_or_else(|_| Err(TaskError::retry("the handler panicked"))),
            () = self.renew_until_lost(&claimed) => {
                tracing::warn!(task_id, kind, attempt, "lost the lease of a task; stopping this attempt");
                return TaskOutcome::Lost;
            }
            () = abort.cancelled() => {
                tracing::info!(task_id, kind, attempt, "stopping; handing a task back");
                return self.record(&claimed, AttemptResult::HandedBack).await;
            }
        };
        let ended = self.classify(registered, &claimed, outcome);
        self.record(&claimed, ended).await
    }

    /// Logs the result of an attempt, and decides how to record the result.
    fn classify(
        &self,
        registered: &RegisteredHandler,
        claimed: &ClaimedTask,
        outcome: Result<(), TaskError>,
    ) -> AttemptResult {
        let (task_id, kind, attempt) = (claimed.id, claimed.kind.as_str(), claimed.attempt);
        match (outcome, registered.interval) {
            (Ok(()), None) => {
                tracing::debug!(task_id, kind, attempt, "task done");
                AttemptResult::Done
            }
            (Ok(()), Some(every)) => AttemptResult::Repeat(millis(every)),
            (Err(TaskError::HandBack), _) => {
                tracing::info!(task_id, kind, attempt, "stopping; handing a task back");
                AttemptResult::HandedBack
            }
            (Err(error), Some(every)) => {
                let error = error_chain(&error);
                tracing::error!(task_id, kind, attempt, error, "task failed; it will run again");
                AttemptResult::Retry(error, millis(every.min(self.settings.max_backoff)))
            }
            (Err(TaskError::Retry(error)), None) if attempt < claimed.max_attempts => {
                let (error, delay) = (error_chain(&*error), self.settings.backoff_ms(attempt));
                tracing::warn!(
                    task_id,
                    kind,
                    attempt,
                    error,
                    delay_ms = delay,
                    "task failed; it will be retried"
                );
                AttemptResult::Retry(error, delay)
            }
            (Err(error), None) => {
                let error = error_chain(&error);
                tracing::error!(
                    task_id,
                    kind,
                    attempt,
                    error,
                    "task failed and is dead; see `osproxy tasks`"
                );
                AttemptResult::Fail(error)
            }
        }
    }

    /// Records how an attempt ended. Returns the outcome for the metrics.
    async fn record(&self, claimed: &ClaimedTask, ended: AttemptResult) -> TaskOutcome {
        let (task_id, kind, attempt) = (claimed.id, claimed.kind.as_str(), claimed.attempt);
        let outcome = match &ended {
            AttemptResult::Done | AttemptResult::Repeat(_) => TaskOutcome::Done,
            AttemptResult::Retry(..) => TaskOutcome::Failed,
            AttemptResult::Fail(_) => TaskOutcome::Dead,
            AttemptResult::HandedBack => TaskOutcome::HandedBack,
        };
        match self.app.meta.tasks.end(claimed, &self.app.node_id, ended).await {
            // Another node runs it now.
            Ok(true) if outcome == TaskOutcome::HandedBack => self.app.task_notifier.notify_cluster(),
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(task_id, kind, attempt, "a task ended after its lease was lost");
                return TaskOutcome::Lost;
            }
            // When the lease expires, the task runs again. It then finds little left to do.
            Err(error) => {
                tracing::error!(
                    task_id,
                    kind,
                    attempt,
                    error = error_chain(&error),
                    "cannot record the end of a task"
                );
            }
        }
        outcome
    }

    /// Renews the lease of a task. Returns when the lease is lost.
    async fn renew_until_lost(&self, claimed: &ClaimedTask) {
        let lease = self.settings.lease;
        let mut held_until = tokio::time::Instant::now() + lease;
        loop {
            tokio::time::sleep(lease / RENEWALS).await;
            let asked = tokio::time::Instant::now();
            match self.app.meta.tasks.renew(claimed, &self.app.node_id, millis(lease)).await {
                Ok(true) => held_until = asked + lease,
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(
                        task_id = claimed.id,
                        error = error_chain(&error),
                        "cannot renew the lease of a task"
                    );
                    if tokio::time::Instant::now() >= held_until {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_are_spread() {
        let settings = EngineSettings {
            lease: Duration::ZERO,
            poll_interval: Duration::ZERO,
            initial_backoff: Duration::from_secs(2),
            max_backoff: Duration::from_mins(10),
        };
        for (attempt, full) in [(1, 2_000), (2, 4_000), (4, 16_000), (10, 600_000), (4_000_000, 600_000)] {
            let delays: Vec<_> = (0..200).map(|_| settings.backoff_ms(attempt)).collect();
            assert!(delays.iter().all(|delay| (full / 2..=full).contains(delay)), "{attempt}: {delays:?}");
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            assert!(most - least > full / 4, "{attempt}: they are all alike");
        }
    }
}
