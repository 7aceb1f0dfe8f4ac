//! Claims tasks, runs their handlers, and records how they ended.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::handler::{Registered, Registry, TaskContext, TaskError};
use crate::{
    Error, Result,
    app::App,
    error,
    meta::{ClaimedTask, Ended, NewTask},
};

/// How many tasks are looked at in one go.
const PAGE: u64 = 64;
/// How often a lease is renewed while it holds.
const RENEWALS: u32 = 3;
/// Attempts of work that comes again and again: it is never given up.
const UNLIMITED: u32 = 1_000_000_000;

/// How patient the engine is.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a task is this process's without a sign of life.
    pub lease: Duration,
    /// How often the engine looks for tasks that nobody told it of.
    pub poll: Duration,
    /// Delay after the first failure; it doubles with every further one.
    pub first_retry: Duration,
    /// Longest delay after a failure.
    pub max_retry: Duration,
}

/// The engine of one process.
pub struct Engine {
    app: Arc<App>,
    registry: Registry,
    settings: Settings,
}

impl Engine {
    /// An engine with these handlers.
    pub fn new(app: Arc<App>, registry: Registry, settings: Settings) -> Self {
        Self { app, registry, settings }
    }

    /// Runs tasks until `stop`. Then it claims none any more, lets running ones end until `abort`, and hands the rest
    /// back to whoever comes next.
    pub async fn run(self, stop: CancellationToken, abort: CancellationToken) {
        let engine = Arc::new(self);
        let mut running = Running::default();
        let mut prepared = false;
        while !stop.is_cancelled() {
            prepared = prepared || engine.ensure_recurring().await;
            let pause = match engine.claim(&mut running, &abort).await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::error!(error = error::chain(&error), "cannot look for tasks");
                    engine.settings.poll
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = engine.app.task_enqueued.notified() => {}
                Some(ended) = running.set.join_next() => running.ended(ended.ok()),
                () = tokio::time::sleep(pause) => {}
            }
        }
        while let Some(ended) = running.set.join_next().await {
            running.ended(ended.ok());
        }
    }

    /// Sees to it that there is a task for everything that comes again and again. Whether it could.
    async fn ensure_recurring(&self) -> bool {
        for (kind, registered) in &self.registry.kinds {
            if registered.every.is_none() {
                continue;
            }
            let ensured = async {
                let id = self.app.next_uid().await?.get();
                let new = NewTask { id, kind, payload: "null".to_owned(), max_attempts: UNLIMITED };
                self.app.meta.ensure_recurring(new).await.map_err(Error::from)
            };
            if let Err(error) = ensured.await {
                tracing::error!(kind, error = error::chain(&error), "cannot schedule this task");
                return false;
            }
        }
        true
    }

    /// Claims what is due and fits in, and says how long nothing else will be.
    async fn claim(self: &Arc<Self>, running: &mut Running, abort: &CancellationToken) -> Result<Duration> {
        loop {
            let free = |(kind, registered): (&&'static str, &Registered)| {
                (running.count(kind) < registered.concurrency).then_some(*kind)
            };
            let kinds: Vec<_> = self.registry.kinds.iter().filter_map(free).collect();
            if kinds.is_empty() {
                // Whoever ends makes room.
                return Ok(self.settings.poll);
            }
            let due = self.app.meta.due_tasks(&kinds, PAGE).await?;
            if due.is_empty() {
                let next = self.app.meta.next_due(&kinds).await?;
                let next = next.map(|next| Duration::from_millis(next.unsigned_abs()));
                return Ok(next.map_or(self.settings.poll, |next| next.min(self.settings.poll)));
            }
            let mut claimed_any = false;
            for (id, kind) in due {
                let Some((&kind, registered)) = self.registry.kinds.get_key_value(kind.as_str()) else {
                    continue;
                };
                if running.count(kind) >= registered.concurrency {
                    continue;
                }
                let lease = millis(self.settings.lease);
                let Some(claimed) = self.app.meta.claim_task(id, &self.app.node, lease).await? else {
                    continue;
                };
                claimed_any = true;
                *running.kinds.entry(kind).or_default() += 1;
                let (engine, registered, abort) = (self.clone(), registered.clone(), abort.clone());
                running.set.spawn(async move {
                    engine.attempt(&registered, claimed, abort).await;
                    kind
                });
            }
            if !claimed_any {
                // Others were faster with all of them.
                return Ok(self.settings.poll);
            }
        }
    }

    /// Runs one attempt to its end, and records that.
    async fn attempt(&self, registered: &Registered, claimed: ClaimedTask, abort: CancellationToken) {
        let (task_id, kind, attempt) = (claimed.id, claimed.kind.as_str(), claimed.attempt);
        let context = TaskContext { app: self.app.clone(), task_id, attempt };
        tracing::debug!(task_id, kind, attempt, "begun");
        let work = AssertUnwindSafe(registered.run(&context, &claimed.payload)).catch_unwind();
        let outcome = tokio::select! {
            outcome = work => outcome.unwrap_or_else(|_| Err(TaskError::retry("the handler panicked"))),
            () = self.keep_lease(&claimed) => {
                tracing::warn!(task_id, kind, attempt, "lost the lease; another process has the task now");
                return;
            }
            () = abort.cancelled() => {
                tracing::info!(task_id, kind, attempt, "stopping: handing the task back");
                self.record(&claimed, Ended::HandedBack).await;
                return;
            }
        };
        let ended = self.judge(registered, &claimed, outcome);
        self.record(&claimed, ended).await;
    }

    /// What follows from an outcome; logs it if it is not good.
    fn judge(&self, registered: &Registered, claimed: &ClaimedTask, outcome: Result<(), TaskError>) -> Ended {
        let (task_id, kind, attempt) = (claimed.id, claimed.kind.as_str(), claimed.attempt);
        match (outcome, registered.every) {
            (Ok(()), None) => {
                tracing::debug!(task_id, kind, attempt, "done");
                Ended::Done
            }
            (Ok(()), Some(every)) => Ended::Again(millis(every)),
            (Err(error), Some(every)) => {
                let error = error::chain(&error);
                tracing::error!(task_id, kind, attempt, error, "failed; it comes again");
                Ended::Retry(error, millis(every.min(self.settings.max_retry)))
            }
            (Err(TaskError::Retry(error)), None) if attempt < claimed.max_attempts => {
                let (error, delay) = (error::chain(&*error), self.delay(attempt));
                tracing::warn!(task_id, kind, attempt, error, delay_ms = delay, "failed; it is tried again");
                Ended::Retry(error, delay)
            }
            (Err(error), None) => {
                let error = error::chain(&error);
                tracing::error!(task_id, kind, attempt, error, "failed for good; see `osproxy tasks`");
                Ended::Dead(error)
            }
        }
    }

    async fn record(&self, claimed: &ClaimedTask, ended: Ended) {
        let (task_id, kind, attempt) = (claimed.id, claimed.kind.as_str(), claimed.attempt);
        match self.app.meta.end_task(claimed, &self.app.node, ended).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!(task_id, kind, attempt, "ended after the lease was lost"),
            // It is taken over when the lease is over, and finds little left to do.
            Err(error) => {
                tracing::error!(
                    task_id,
                    kind,
                    attempt,
                    error = error::chain(&error),
                    "cannot record the end"
                );
            }
        }
    }

    /// Renews the lease again and again; returns when it is lost.
    async fn keep_lease(&self, claimed: &ClaimedTask) {
        let lease = self.settings.lease;
        let mut held_until = tokio::time::Instant::now() + lease;
        loop {
            tokio::time::sleep(lease / RENEWALS).await;
            let asked = tokio::time::Instant::now();
            match self.app.meta.renew_task(claimed, &self.app.node, millis(lease)).await {
                Ok(true) => held_until = asked + lease,
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(
                        task_id = claimed.id,
                        error = error::chain(&error),
                        "cannot renew a lease"
                    );
                    if tokio::time::Instant::now() >= held_until {
                        return;
                    }
                }
            }
        }
    }

    /// Milliseconds to wait after a failed attempt: twice as long every time, and somewhere between half of that and all
    /// of it, so that what failed together does not come back together.
    fn delay(&self, attempt: u32) -> i64 {
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let full = self.settings.first_retry.saturating_mul(doubled).min(self.settings.max_retry);
        let mut random = [0; 2];
        // Without randomness the delay is the full one.
        let share = getrandom::fill(&mut random).map_or(u16::MAX, |()| u16::from_be_bytes(random));
        let half = millis(full) / 2;
        millis(full) - half + half.saturating_mul(share.into()) / i64::from(u16::MAX)
    }
}

fn millis(duration: Duration) -> i64 {
    duration.as_millis().try_into().unwrap_or(i64::MAX)
}

/// What runs, and how many of each kind.
#[derive(Default)]
struct Running {
    set: JoinSet<&'static str>,
    kinds: HashMap<&'static str, usize>,
}

impl Running {
    fn count(&self, kind: &str) -> usize {
        self.kinds.get(kind).copied().unwrap_or(0)
    }

    fn ended(&mut self, kind: Option<&'static str>) {
        if let Some(count) = kind.and_then(|kind| self.kinds.get_mut(kind)) {
            *count = count.saturating_sub(1);
        }
    }
}
