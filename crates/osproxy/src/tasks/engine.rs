//! Claims tasks, runs their handlers, and records how they ended.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    handler::{Registered, Registry, TaskContext, TaskError},
    running::{Running, millis},
    troubles::Troubles,
};
use crate::{
    Error, Result,
    app::{App, Busy},
    error,
    meta::{ClaimedTask, Ended, NewTask},
    metrics::Outcome,
    traces,
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
    /// Why tasks could not be had.
    troubles: Troubles,
}

impl Engine {
    /// An engine with these handlers.
    pub fn new(app: Arc<App>, registry: Registry, settings: Settings) -> Self {
        Self { app, registry, settings, troubles: Troubles::default() }
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
                    engine.troubles.log("cannot look for tasks", &error);
                    engine.settings.poll
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = engine.app.task_bell.notified() => {}
                true = running.one_ends() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        while running.one_ends().await {}
    }

    /// Sees to it that there is a task for everything that comes again and again. Whether it could.
    async fn ensure_recurring(&self) -> bool {
        for (kind, registered) in &self.registry.kinds {
            if registered.every.is_none() {
                continue;
            }
            let stores = if registered.for_store {
                self.app.stores.names().into_iter().map(Some).collect()
            } else {
                vec![None]
            };
            for store in stores {
                let ensured = async {
                    let id = self.app.next_uid().await?.get();
                    let new = NewTask { id, kind, payload: "null".to_owned(), max_attempts: UNLIMITED };
                    self.app.meta.ensure_recurring(new, store).await.map_err(Error::from)
                };
                if let Err(error) = ensured.await {
                    self.troubles.log("cannot schedule a task", &error);
                    return false;
                }
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
                let claimed = match self.app.meta.claim_task(id, &self.app.node, lease).await {
                    Ok(Some(claimed)) => claimed,
                    Ok(None) => continue,
                    // One that cannot be claimed must not keep the others.
                    Err(error) => {
                        self.troubles.log("cannot claim a task", &error);
                        continue;
                    }
                };
                claimed_any = true;
                let (engine, registered, abort) = (self.clone(), registered.clone(), abort.clone());
                running.spawn(kind, async move {
                    let began = Instant::now();
                    let span = traces::of_task(kind, claimed.id, claimed.attempt);
                    let outcome = engine.attempt(&registered, claimed, abort).instrument(span).await;
                    engine.app.metrics.tasks.ended(kind, outcome, began.elapsed());
                });
            }
            if !claimed_any {
                // Others were faster with all of them, or none can be had now.
                return Ok(self.settings.poll);
            }
        }
    }

    /// Runs one attempt to its end, and records that.
    async fn attempt(
        &self,
        registered: &Registered,
        claimed: ClaimedTask,
        abort: CancellationToken,
    ) -> Outcome {
        let (task_id, kind, attempt) = (claimed.id, claimed.kind.as_str(), claimed.attempt);
        let (store, _busy) = (claimed.store.clone(), Busy::task(&self.app));
        let context = TaskContext { app: self.app.clone(), task_id, attempt, store };
        tracing::debug!(task_id, kind, attempt, "begun");
        let work = AssertUnwindSafe(registered.run(&context, &claimed.payload)).catch_unwind();
        let outcome = tokio::select! {
            outcome = work => outcome.unwrap_or_else(|_| Err(TaskError::retry("the handler panicked"))),
            () = self.keep_lease(&claimed) => {
                tracing::warn!(task_id, kind, attempt, "lost the lease; another process has the task now");
                return Outcome::Lost;
            }
            () = abort.cancelled() => {
                tracing::info!(task_id, kind, attempt, "stopping: handing the task back");
                return self.record(&claimed, Ended::HandedBack).await;
            }
        };
        let ended = self.judge(registered, &claimed, outcome);
        self.record(&claimed, ended).await
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

    /// Records how an attempt ended, and says it.
    async fn record(&self, claimed: &ClaimedTask, ended: Ended) -> Outcome {
        let (task_id, kind, attempt) = (claimed.id, claimed.kind.as_str(), claimed.attempt);
        let outcome = match &ended {
            Ended::Done | Ended::Again(_) => Outcome::Done,
            Ended::Retry(..) => Outcome::Failed,
            Ended::Dead(_) => Outcome::Dead,
            Ended::HandedBack => Outcome::HandedBack,
        };
        match self.app.meta.end_task(claimed, &self.app.node, ended).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(task_id, kind, attempt, "ended after the lease was lost");
                return Outcome::Lost;
            }
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
        outcome
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::{
        config,
        meta::{AttemptOutcome, Task, TaskState},
        tasks::{TaskHandler, enqueue},
    };

    const HOUR: Duration = Duration::from_hours(1);
    /// Nobody is told of tasks but by the bell.
    const SETTINGS: Settings =
        Settings { lease: HOUR, poll: HOUR, first_retry: Duration::from_millis(50), max_retry: HOUR };

    #[derive(Clone, Default)]
    struct Seen {
        begun: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
        dropped: Arc<AtomicBool>,
        /// Whether handlers panic when they are dropped.
        is_bad: Arc<AtomicBool>,
        open: Arc<tokio::sync::Notify>,
    }

    /// Waits until it is let through, or fails as its payload says.
    struct Gate(Seen);

    struct Inside<'a>(&'a Seen);

    impl Drop for Inside<'_> {
        fn drop(&mut self) {
            self.0.begun.fetch_sub(1, Ordering::SeqCst);
            self.0.dropped.store(true, Ordering::SeqCst);
            assert!(!self.0.is_bad.load(Ordering::SeqCst), "as it was told");
        }
    }

    impl TaskHandler for Gate {
        const KIND: &'static str = "gate";
        const CONCURRENCY: usize = 2;
        type Payload = String;

        async fn run(&self, _: &TaskContext, payload: String) -> Result<(), TaskError> {
            let begun = self.0.begun.fetch_add(1, Ordering::SeqCst) + 1;
            self.0.most.fetch_max(begun, Ordering::SeqCst);
            let _inside = Inside(&self.0);
            match payload.as_str() {
                "wait" => self.0.open.notified().await,
                "panic" => panic!("as it was told"),
                "fail" => return Err(TaskError::fail("no use")),
                _ => return Err(TaskError::retry("not now")),
            }
            Ok(())
        }
    }

    struct Bench {
        app: Arc<App>,
        seen: Seen,
        stop: CancellationToken,
        abort: CancellationToken,
        engine: tokio::task::JoinHandle<()>,
        _folder: tempfile::TempDir,
    }

    async fn start(settings: Settings) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let overrides = config::Overrides { listen: None, data_dir: Some(folder.path().join("data")) };
        let app = App::open(&config::load(None, overrides).unwrap().config).await.unwrap();
        let (seen, stop, abort) = (Seen::default(), CancellationToken::new(), CancellationToken::new());
        let registry = Registry::default().with(Gate(seen.clone()));
        let engine = Engine::new(app.clone(), registry, settings).run(stop.clone(), abort.clone());
        Bench { app, seen, stop, abort, engine: tokio::spawn(engine), _folder: folder }
    }

    impl Bench {
        async fn enqueue(&self, payload: &str) -> i64 {
            enqueue::<Gate>(&self.app, &payload.to_owned()).await.unwrap()
        }

        async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
            let waiting = async {
                while !condition().await {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
            waited.unwrap_or_else(|_| panic!("waited too long until {what}"));
        }

        async fn task(&self, id: i64) -> Task {
            self.app.meta.task(id).await.unwrap().unwrap().0
        }

        async fn until_state(&self, id: i64, state: TaskState) {
            self.until("it is in its state", async || self.task(id).await.state == state).await;
        }
    }

    #[tokio::test]
    async fn what_is_enqueued_is_begun_at_once_and_only_so_many_at_a_time() {
        let bench = start(SETTINGS).await;
        let mut ids = Vec::new();
        for _ in 0..6 {
            ids.push(bench.enqueue("wait").await);
        }
        let inside = || bench.seen.begun.load(Ordering::SeqCst);
        bench.until("two are begun", async || inside() == 2).await;
        for id in ids {
            bench
                .until("it is let through", async || {
                    bench.seen.open.notify_one();
                    bench.task(id).await.state == TaskState::Done
                })
                .await;
        }
        assert_eq!(bench.seen.most.load(Ordering::SeqCst), 2);
        bench.stop.cancel();
        bench.engine.await.unwrap();
    }

    #[tokio::test]
    async fn failures_and_panics_are_tried_again_and_what_is_of_no_use_is_not() {
        let bench = start(SETTINGS).await;
        for (payload, attempts, error) in
            [("retry", 5, "not now"), ("panic", 5, "the handler panicked"), ("fail", 1, "no use")]
        {
            let id = bench.enqueue(payload).await;
            bench.until_state(id, TaskState::Dead).await;
            let task = bench.task(id).await;
            assert_eq!((task.attempts, task.last_error.as_deref()), (attempts, Some(error)), "{payload}");
        }
        // A payload that nobody understands is of no use either.
        let id = bench.app.next_uid().await.unwrap().get();
        let new = NewTask { id, kind: "gate", payload: "{".to_owned(), max_attempts: 5 };
        bench.app.meta.enqueue(new, None).await.unwrap();
        bench.app.task_enqueued();
        bench.until_state(id, TaskState::Dead).await;
        assert_eq!(bench.task(id).await.attempts, 1);
    }

    #[tokio::test]
    async fn a_lease_is_renewed_while_its_handler_runs() {
        let lease = Duration::from_millis(300);
        let bench = start(Settings { lease, ..SETTINGS }).await;
        let id = bench.enqueue("wait").await;
        bench.until_state(id, TaskState::Running).await;
        let first = bench.task(id).await.lease_until;
        bench
            .until("it is renewed three times", async || {
                let due = bench.app.meta.due_tasks(&["gate"], 1).await.unwrap();
                assert_eq!(due, [], "another could take it");
                bench.task(id).await.lease_until > first.map(|until| until + 250)
            })
            .await;
        assert!(!bench.seen.dropped.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn who_has_lost_the_lease_stops_and_has_no_say() {
        let bench = start(Settings { lease: Duration::from_millis(300), ..SETTINGS }).await;
        let id = bench.enqueue("wait").await;
        bench.until_state(id, TaskState::Running).await;
        // As a process would see it that was paused for too long.
        bench.app.meta.end_leases_of_others("another", Vec::new(), true).await.unwrap();
        let taken = bench.app.meta.claim_task(id, "another", 3_600_000).await.unwrap().unwrap();
        assert_eq!(taken.attempt, 2);
        bench.until("the handler is dropped", async || bench.seen.dropped.load(Ordering::SeqCst)).await;
        let task = bench.task(id).await;
        assert_eq!((task.state, task.lease_owner.as_deref()), (TaskState::Running, Some("another")));
    }

    #[tokio::test]
    async fn a_handler_that_panics_when_it_is_dropped_keeps_no_room() {
        let bench = start(Settings { lease: Duration::from_millis(300), ..SETTINGS }).await;
        bench.seen.is_bad.store(true, Ordering::SeqCst);
        // As many as there may be at a time.
        let mut lost = Vec::new();
        for _ in 0..Gate::CONCURRENCY {
            lost.push(bench.enqueue("wait").await);
        }
        for id in &lost {
            bench.until_state(*id, TaskState::Running).await;
        }
        bench.app.meta.end_leases_of_others("another", Vec::new(), true).await.unwrap();
        for id in lost {
            bench.app.meta.claim_task(id, "another", 3_600_000).await.unwrap().unwrap();
        }
        bench.until("both are dropped", async || bench.seen.begun.load(Ordering::SeqCst) == 0).await;
        bench.seen.is_bad.store(false, Ordering::SeqCst);
        let next = bench.enqueue("fail").await;
        bench.until_state(next, TaskState::Dead).await;
    }

    #[tokio::test]
    async fn who_stops_lets_handlers_end_and_who_must_stop_hands_them_back() {
        let mut bench = start(SETTINGS).await;
        let first = bench.enqueue("wait").await;
        bench.until_state(first, TaskState::Running).await;
        bench.stop.cancel();
        let late = bench.enqueue("wait").await;
        bench.seen.open.notify_one();
        bench.until_state(first, TaskState::Done).await;
        (&mut bench.engine).await.unwrap();
        assert_eq!(bench.task(late).await.state, TaskState::Queued, "it stopped claiming");

        let mut bench = start(SETTINGS).await;
        let id = bench.enqueue("wait").await;
        bench.until_state(id, TaskState::Running).await;
        bench.stop.cancel();
        bench.abort.cancel();
        (&mut bench.engine).await.unwrap();
        let (task, attempts) = bench.app.meta.task(id).await.unwrap().unwrap();
        assert_eq!((task.state, task.lease_owner), (TaskState::Queued, None));
        assert_eq!(attempts[0].outcome, Some(AttemptOutcome::HandedBack));
    }

    #[tokio::test]
    async fn delays_double_and_are_spread() {
        let bench = start(Settings { first_retry: Duration::from_secs(2), ..SETTINGS }).await;
        bench.stop.cancel();
        let settings =
            Settings { first_retry: Duration::from_secs(2), max_retry: Duration::from_mins(10), ..SETTINGS };
        let engine = Engine::new(bench.app.clone(), Registry::default(), settings);
        for (attempt, full) in [(1, 2_000), (2, 4_000), (4, 16_000), (10, 600_000), (4_000_000, 600_000)] {
            let delays: Vec<_> = (0..200).map(|_| engine.delay(attempt)).collect();
            assert!(delays.iter().all(|delay| (full / 2..=full).contains(delay)), "{attempt}: {delays:?}");
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            assert!(most - least > full / 4, "{attempt}: they are all alike");
        }
    }
}
