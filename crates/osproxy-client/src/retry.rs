use std::time::Duration;

use crate::{Error, Result};

/// How often and how fast failed requests are repeated. Only requests that may be repeated are:
/// those that change nothing, those that have an idempotency key, and parts.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    max_retries: u32,
    min_pause: Duration,
    max_pause: Duration,
}

impl Default for RetryPolicy {
    /// 12 retries with pauses from 100 ms to 10 s: about a minute, in which a server can restart.
    fn default() -> Self {
        Self { max_retries: 12, min_pause: Duration::from_millis(100), max_pause: Duration::from_secs(10) }
    }
}

impl RetryPolicy {
    /// Never repeats a request.
    pub fn none() -> Self {
        Self::default().max_retries(0)
    }

    /// Maximum number of repetitions of one request. A transfer that makes progress starts to count
    /// anew.
    #[must_use]
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = retries;
        self
    }

    /// The first pause. Each further pause is twice as long as the one before.
    #[must_use]
    pub fn min_pause(mut self, pause: Duration) -> Self {
        self.min_pause = pause;
        self
    }

    /// The longest pause. `Retry-After` of the server may ask for a longer one.
    #[must_use]
    pub fn max_pause(mut self, pause: Duration) -> Self {
        self.max_pause = pause;
        self
    }

    pub(crate) fn backoff(&self) -> Backoff<'_> {
        Backoff { policy: self, retries: 0 }
    }

    fn pause(&self, retries: u32) -> Duration {
        let full = self.min_pause.saturating_mul(1 << retries.min(20)).min(self.max_pause);
        // Half to all of it, so that clients that failed together do not return together.
        let jitter = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        full.mul_f64(f64::midpoint(1.0, jitter))
    }
}

/// The repetitions of one request.
pub(crate) struct Backoff<'a> {
    policy: &'a RetryPolicy,
    retries: u32,
}

impl Backoff<'_> {
    /// Waits before the request is repeated. Fails with `error` if it must not be repeated.
    pub(crate) async fn pause(&mut self, error: Error) -> Result<()> {
        if !error.is_retryable() {
            return Err(error);
        }
        self.pause_always(error).await
    }

    /// Like [`pause`](Self::pause), for an error that is not retryable in general.
    pub(crate) async fn pause_always(&mut self, error: Error) -> Result<()> {
        if self.retries >= self.policy.max_retries {
            return Err(error);
        }
        let pause = self.policy.pause(self.retries).max(error.retry_after().unwrap_or_default());
        self.retries += 1;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Starts to count anew, after progress.
    pub(crate) fn reset(&mut self) {
        self.retries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = RetryPolicy::default();
        for (retries, longest) in [(0, 100), (1, 200), (3, 800), (7, 10_000), (60, 10_000)] {
            let pause = policy.pause(retries);
            let longest = Duration::from_millis(longest);
            assert!(pause >= longest / 2 && pause <= longest, "{retries}: {pause:?}");
        }
    }
}
