//! Values that are expensive to compute: reused for a while, and computed by one task at a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::{Error, Result};

/// A cached value. At most one computation runs at a time, however many callers wait for it. It
/// continues when they are dropped or time out, so a computation that hangs occupies one task.
#[derive(Debug)]
pub(crate) struct Cached<T> {
    /// The last value, and when it was computed. Locked while the next one is computed.
    last: Arc<Mutex<Option<(Instant, T)>>>,
    ttl: Duration,
    timeout: Option<Duration>,
}

impl<T: Clone + Send + 'static> Cached<T> {
    /// Creates an empty cache whose values are reused for `ttl`. With a `ttl` of zero, each call
    /// computes the value again, but only one at a time.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { last: Arc::default(), ttl, timeout: None }
    }

    /// Limits how long a caller waits, for a computation that runs already and for its own.
    pub(crate) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Returns the cached value, or else the result of `compute`, which is spawned on the current
    /// runtime. Errors are not cached. Returns `Unavailable` after the timeout, and `Internal` if
    /// `compute` panics.
    pub(crate) async fn get(&self, compute: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let value = self.get_or_spawn(compute);
        match self.timeout {
            None => value.await,
            Some(timeout) => tokio::time::timeout(timeout, value).await.map_err(Error::unavailable)?,
        }
    }

    async fn get_or_spawn(&self, compute: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let mut last = self.last.clone().lock_owned().await;
        if let Some((at, value)) = &*last
            && at.elapsed() < self.ttl
        {
            return Ok(value.clone());
        }
        let computation = tokio::spawn(async move {
            let value = compute.await?;
            *last = Some((Instant::now(), value.clone()));
            Ok(value)
        });
        computation.await.map_err(Error::internal)?
    }
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
    async fn errors_and_panics_are_returned_but_not_cached() {
        let cached = Cached::new(LONG);
        let error = cached.get(async { Err(Error::invalid("no")) }).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        let error = cached.get(async { panic!("the computation panics") }).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Internal);
        assert_eq!(cached.get(async { Ok(7) }).await.unwrap(), 7);
    }
}
