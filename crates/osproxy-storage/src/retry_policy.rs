//! Decides whether, how often and after which pause a failed operation is retried.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// Pause after the first failure. Each further failure doubles the pause.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Maximum pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Runs an operation until it succeeds, fails with an error that is not transient, or has failed
/// `max_attempts` times. Each call of `run` is one attempt, so `run` must be able to send the same
/// bytes again.
pub(crate) async fn retry<T, F: Future<Output = Result<T>>>(
    max_attempts: u32,
    operation: &'static str,
    run: impl Fn() -> F,
) -> Result<T> {
    let mut attempts = Attempts::new(max_attempts);
    loop {
        match run().await {
            Ok(done) => return Ok(done),
            Err(error) => attempts.pause_after(error, operation).await?,
        }
    }
}

/// Counts consecutive failures of an operation, and pauses between attempts with exponential
/// backoff.
#[derive(Debug)]
pub(crate) struct Attempts {
    max: u32,
    failures: u32,
    next_pause: Duration,
}

impl Attempts {
    /// Allows `max` attempts, including the first. At least one attempt is always allowed.
    pub(crate) const fn new(max: u32) -> Self {
        Self { max, failures: 0, next_pause: FIRST_PAUSE }
    }

    /// Counts a failure and waits before the next attempt. If the error is not transient or no
    /// attempt is left, returns the error without waiting.
    pub(crate) async fn pause_after(&mut self, error: Error, operation: &'static str) -> Result<()> {
        self.failures = self.failures.saturating_add(1);
        if !is_transient(&error) || self.failures >= self.max {
            return Err(error);
        }
        tracing::debug!(operation, %error, "store operation failed; retrying");
        tokio::time::sleep(with_jitter(self.next_pause)).await;
        self.next_pause = (self.next_pause * 2).min(MAX_PAUSE);
        Ok(())
    }

    /// Resets the number of failures and the pause, after the operation made progress.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.max);
    }
}

/// Whether a retry within seconds may succeed. A full or busy store usually needs longer to
/// recover.
fn is_transient(error: &Error) -> bool {
    error.retryable && error.kind == ErrorKind::Other
}

/// Shortens a pause to a random 50 to 100 % of its length. Otherwise, callers that failed at the
/// same time would retry at the same time.
fn with_jitter(pause: Duration) -> Duration {
    let mut jitter = [0];
    // If the random number source fails, the pause has no jitter, which is harmless.
    let _ = getrandom::fill(&mut jitter);
    pause.mul_f64(1.0 - f64::from(jitter[0]) / 512.0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn error(kind: ErrorKind, retryable: bool) -> Error {
        let mut error = Error::new(kind, "test", "fail");
        error.retryable = retryable;
        error
    }

    /// Runs an operation that always fails; returns the number of attempts.
    async fn count_attempts(max_attempts: u32, kind: ErrorKind, retryable: bool) -> u32 {
        let attempts = AtomicU32::new(0);
        let outcome: Result<()> = retry(max_attempts, "fail", || {
            attempts.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Err(error(kind, retryable)))
        })
        .await;
        assert_eq!(outcome.unwrap_err().kind, kind);
        attempts.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn transient_errors_are_retried_up_to_the_maximum() {
        for max_attempts in 1..6 {
            assert_eq!(count_attempts(max_attempts, ErrorKind::Other, true).await, max_attempts);
        }
        assert_eq!(count_attempts(0, ErrorKind::Other, true).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn other_errors_are_not_retried() {
        for (kind, retryable) in [
            (ErrorKind::Other, false),
            (ErrorKind::NotFound, false),
            (ErrorKind::Full, true),
            (ErrorKind::Busy, true),
            (ErrorKind::Mismatch, false),
        ] {
            assert_eq!(count_attempts(5, kind, retryable).await, 1, "{kind:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_the_maximum_and_shrink_after_progress() {
        let mut attempts = Attempts::new(u32::MAX);
        let pause = async |attempts: &mut Attempts| {
            let start = tokio::time::Instant::now();
            attempts.pause_after(error(ErrorKind::Other, true), "fail").await.unwrap();
            start.elapsed()
        };
        let rounding = Duration::from_millis(2);
        for expected in [100, 200, 400, 800, 1600, 3200, 5000, 5000].map(Duration::from_millis) {
            let elapsed = pause(&mut attempts).await;
            assert!(elapsed >= expected / 2 && elapsed <= expected + rounding, "{elapsed:?} {expected:?}");
        }
        attempts.reset();
        assert!(pause(&mut attempts).await <= FIRST_PAUSE + rounding);
    }
}
