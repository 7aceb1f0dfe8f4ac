//! The task engine: claims, leases, retries and shutdown.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use osproxy::{config::Config, wiring};
use osproxy_core::{
    App,
    tasks::{Engine, EngineSettings, Registry, TaskContext, TaskError, TaskHandler, enqueue},
};
use osproxy_meta::{AttemptOutcome, NewTask, TaskKind, TaskRecord, TaskState};
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_hours(1);
/// Intervals so long that only a notification wakes the engine.
const SETTINGS: EngineSettings = EngineSettings {
    lease: HOUR,
    poll_interval: HOUR,
    initial_backoff: Duration::from_millis(50),
    max_backoff: HOUR,
};

#[derive(Clone, Default)]
struct Seen {
    begun: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    dropped: Arc<AtomicBool>,
    /// Whether handlers panic when they are dropped.
    is_bad: Arc<AtomicBool>,
    open: Arc<tokio::sync::Notify>,
}

/// Waits until it is released, or fails as its payload demands.
struct Gate(Seen);

struct Inside<'a>(&'a Seen);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.begun.fetch_sub(1, Ordering::SeqCst);
        self.0.dropped.store(true, Ordering::SeqCst);
        assert!(!self.0.is_bad.load(Ordering::SeqCst), "a test wants this panic");
    }
}

impl TaskHandler for Gate {
    const KIND: TaskKind = TaskKind::Other("gate");
    const CONCURRENCY: usize = 2;
    type Payload = String;

    async fn run(&self, _: &TaskContext, payload: String) -> Result<(), TaskError> {
        let begun = self.0.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(begun, Ordering::SeqCst);
        let _inside = Inside(&self.0);
        match payload.as_str() {
            "wait" => self.0.open.notified().await,
            "panic" => panic!("a test wants this panic"),
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

async fn start(settings: EngineSettings) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { data_dir: folder.path().join("data"), ..Config::default() };
    let app = wiring::open_node(&config).await.unwrap();
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

    async fn task(&self, id: i64) -> TaskRecord {
        self.app.meta.tasks.find(id).await.unwrap().unwrap().0
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
    // A payload that cannot be parsed is a permanent error too.
    let id = bench.app.uids.next().await.unwrap().get();
    let new = NewTask { id, kind: TaskKind::Other("gate"), payload: "{".to_owned(), max_attempts: 5 };
    bench.app.meta.tasks.enqueue(new, None).await.unwrap();
    bench.app.task_notifier.notify_node();
    bench.until_state(id, TaskState::Dead).await;
    assert_eq!(bench.task(id).await.attempts, 1);
}

#[tokio::test]
async fn a_lease_is_renewed_while_its_handler_runs() {
    // Long enough that a busy machine renews it in time.
    let lease = Duration::from_secs(3);
    let bench = start(EngineSettings { lease, ..SETTINGS }).await;
    let id = bench.enqueue("wait").await;
    bench.until_state(id, TaskState::Running).await;
    let first = bench.task(id).await.lease_until;
    bench
        .until("it is renewed three times", async || {
            let due = bench.app.meta.tasks.due(&[Gate::KIND], 1).await.unwrap();
            assert_eq!(due, [], "another could take it");
            bench.task(id).await.lease_until > first.map(|until| until + 2500)
        })
        .await;
    assert!(!bench.seen.dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn who_has_lost_the_lease_stops_and_has_no_say() {
    let bench = start(EngineSettings { lease: Duration::from_millis(300), ..SETTINGS }).await;
    let id = bench.enqueue("wait").await;
    bench.until_state(id, TaskState::Running).await;
    // As for a process that was suspended for too long.
    bench.app.meta.tasks.expire_other_leases("another", Vec::new(), true).await.unwrap();
    let taken = bench.app.meta.tasks.claim(id, "another", 3_600_000).await.unwrap().unwrap();
    assert_eq!(taken.attempt, 2);
    bench.until("the handler is dropped", async || bench.seen.dropped.load(Ordering::SeqCst)).await;
    let task = bench.task(id).await;
    assert_eq!((task.state, task.lease_owner.as_deref()), (TaskState::Running, Some("another")));
}

#[tokio::test]
async fn a_handler_that_panics_when_it_is_dropped_keeps_no_room() {
    let bench = start(EngineSettings { lease: Duration::from_millis(300), ..SETTINGS }).await;
    bench.seen.is_bad.store(true, Ordering::SeqCst);
    // The maximum at the same time.
    let mut lost = Vec::new();
    for _ in 0..Gate::CONCURRENCY {
        lost.push(bench.enqueue("wait").await);
    }
    for id in &lost {
        bench.until_state(*id, TaskState::Running).await;
    }
    bench.app.meta.tasks.expire_other_leases("another", Vec::new(), true).await.unwrap();
    for id in lost {
        bench.app.meta.tasks.claim(id, "another", 3_600_000).await.unwrap().unwrap();
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
    let (task, attempts) = bench.app.meta.tasks.find(id).await.unwrap().unwrap();
    assert_eq!((task.state, task.lease_owner), (TaskState::Queued, None));
    assert_eq!(attempts[0].outcome, Some(AttemptOutcome::HandedBack));
}
