//! Values that are expensive to compute: reused for a while, and computed by one task at a time.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::runtime::Handle;

use crate::{Error, Result};

/// A cached value. At most one computation runs at a time; all callers that wait for it share its
/// result. A computation continues when its callers are dropped or time out. A computation that
/// hangs occupies only one task, because no second computation starts.
pub(crate) struct Cached<T> {
    state: Arc<Mutex<State<T>>>,
    ttl: Duration,
    timeout: Option<Duration>,
    /// Runs the computations. On the runtime that serves connections, a computation would wait
    /// behind thousands of connections.
    runtime: Handle,
}

struct State<T> {
    /// The latest value, and when its computation ended.
    last: Option<(Instant, T)>,
    running: Option<Computation<T>>,
}

type Computation<T> = Shared<BoxFuture<'static, Result<T>>>;

impl<T: Clone + Send + Sync + 'static> Cached<T> {
    /// Creates an empty cache whose values are reused for `ttl`. With a `ttl` of zero, every call
    /// starts a computation or joins the running one. Computations run on the runtime that calls
    /// `new`, even if another runtime calls [`get`](Self::get).
    pub(crate) fn new(ttl: Duration) -> Self {
        let state = Arc::new(Mutex::new(State { last: None, running: None }));
        Self { state, ttl, timeout: None, runtime: Handle::current() }
    }

    /// Limits how long a caller waits for a computation, whether that caller or another one started
    /// it.
    pub(crate) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Returns the cached value, or else the result of `compute`. Errors are not cached. Returns
    /// `Unavailable` after the timeout, and `Internal` if `compute` panics.
    pub(crate) async fn get(&self, compute: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let computation = {
            let mut state = lock(&self.state);
            match &*state {
                State { last: Some((at, value)), .. } if at.elapsed() < self.ttl => return Ok(value.clone()),
                State { running: Some(running), .. } => running.clone(),
                State { .. } => state.running.insert(self.spawn(compute)).clone(),
            }
        };
        match self.timeout {
            None => computation.await,
            Some(timeout) => tokio::time::timeout(timeout, computation).await.map_err(Error::unavailable)?,
        }
    }

    fn spawn(&self, compute: impl Future<Output = Result<T>> + Send + 'static) -> Computation<T> {
        let state = self.state.clone();
        let task = self.runtime.spawn(async move {
            let result = AssertUnwindSafe(compute).catch_unwind().await;
            let result = result.unwrap_or_else(|_| Err(Error::internal("a computation panicked")));
            let mut state = lock(&state);
            state.running = None;
            if let Ok(value) = &result {
                state.last = Some((Instant::now(), value.clone()));
            }
            result
        });
        async move { task.await.map_err(Error::internal)? }.boxed().shared()
    }
}

fn lock<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use osproxy_api::ErrorCode;
    use tokio::sync::Semaphore;

    use super::*;

    const LONG: Duration = Duration::from_hours(1);
    const SHORT: Duration = Duration::from_millis(10);

    /// A computation that waits for a permit and then returns how often it has been started.
    #[derive(Clone)]
    struct Computation {
        starts: Arc<AtomicU32>,
        permits: Arc<Semaphore>,
    }

    impl Computation {
        fn new(permits: usize) -> Self {
            Self { starts: Arc::default(), permits: Arc::new(Semaphore::new(permits)) }
        }

        async fn run(self) -> Result<u32> {
            let start = self.starts.fetch_add(1, Ordering::SeqCst) + 1;
            self.permits.acquire().await.map_err(Error::internal)?.forget();
            Ok(start)
        }

        fn starts(&self) -> u32 {
            self.starts.load(Ordering::SeqCst)
        }

        async fn wait_until_started(&self) {
            while self.starts() == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn concurrent_callers_share_one_computation() {
        let (cached, computation) = (Cached::new(LONG), Computation::new(0));
        let callers = futures_util::future::join_all((0..100).map(|_| cached.get(computation.clone().run())));
        let release = async {
            computation.wait_until_started().await;
            computation.permits.add_permits(100);
        };
        let (values, ()) = tokio::join!(callers, release);
        assert!(values.into_iter().all(|value| value.unwrap() == 1));
        assert_eq!(computation.starts(), 1);
    }

    #[tokio::test]
    async fn values_are_reused_until_they_expire() {
        let computation = Computation::new(100_000);
        let cached = Cached::new(LONG);
        assert_eq!(cached.get(computation.clone().run()).await.unwrap(), 1);
        assert_eq!(cached.get(computation.clone().run()).await.unwrap(), 1);
        let cached = Cached::new(SHORT);
        assert_eq!(cached.get(computation.clone().run()).await.unwrap(), 2);
        while cached.get(computation.clone().run()).await.unwrap() == 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(computation.starts(), 3);
    }

    #[tokio::test]
    async fn callers_time_out_while_one_computation_hangs() {
        let (cached, computation) = (Cached::new(LONG).with_timeout(SHORT), Computation::new(0));
        for _ in 0..3 {
            let error = cached.get(computation.clone().run()).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::Unavailable);
        }
        assert_eq!(computation.starts(), 1);
        // The value of a late computation is used.
        computation.permits.add_permits(1);
        while cached.get(computation.clone().run()).await.is_err() {}
        assert_eq!((cached.get(computation.clone().run()).await.unwrap(), computation.starts()), (1, 1));
    }

    #[tokio::test]
    async fn a_computation_continues_when_its_caller_is_dropped() {
        let (cached, computation) = (Cached::new(LONG), Computation::new(0));
        tokio::select! {
            biased;
            _ = cached.get(computation.clone().run()) => panic!("there was no permit"),
            () = computation.wait_until_started() => {}
        }
        computation.permits.add_permits(1);
        assert_eq!(cached.get(computation.clone().run()).await.unwrap(), 1);
        assert_eq!(computation.starts(), 1);
    }

    #[tokio::test]
    async fn computations_run_where_the_cache_was_created() {
        let work = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
            let cached = runtime.block_on(async { Arc::new(Cached::new(LONG)) });
            (runtime, cached)
        });
        let (runtime, cached) = work.join().unwrap();
        let id = async { Ok(Handle::current().id()) };
        assert_eq!(cached.get(id).await.unwrap(), runtime.handle().id());
        runtime.shutdown_background();
        assert!(cached.get(async { Err(Error::invalid("the value is cached")) }).await.is_ok());
    }

    #[tokio::test]
    async fn errors_and_panics_are_returned_but_not_cached() {
        let cached = Cached::new(LONG);
        let error = cached.get(async { Err(Error::invalid("no")) }).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        let error = cached.get(async { panic!("the computation panics") }).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Internal);
        assert_eq!(cached.get(async { Ok(7) }).await.unwrap(), 7);
    }
}
