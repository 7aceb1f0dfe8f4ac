//! Minimum transfer rates for clients.

use std::time::Duration;

/// Token bucket that enforces a minimum rate. It holds time instead of tokens: each byte adds the
/// time that it takes at the minimum rate, and waiting for the client removes time; waiting for
/// anything else costs nothing. The bucket starts full, with `window`. A single wait spends at most
/// one window, so that one long pause is forgiven; timeouts deal with long pauses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimiter {
    /// In bytes per second; 0 disables the check.
    min_rate: u64,
    window: Duration,
    credit: Duration,
}

impl RateLimiter {
    /// Requires `rate` bytes per second on average. `window` is the size of the bucket.
    pub(crate) const fn new(rate: u64, window: Duration) -> Self {
        Self { min_rate: rate, window, credit: window }
    }

    /// Records that the client moved `bytes` after a wait of `waited`. Returns `false` if it is too
    /// slow.
    pub(crate) fn record(&mut self, waited: Duration, bytes: u64) -> bool {
        if self.min_rate == 0 {
            return true;
        }
        let Some(lead) = (self.credit + self.time_for(bytes)).checked_sub(waited.min(self.window)) else {
            return false;
        };
        self.credit = lead.min(self.window);
        true
    }

    /// Returns the time for `bytes` at the minimum rate; zero without one.
    pub(crate) fn time_for(&self, bytes: u64) -> Duration {
        let micros = bytes.saturating_mul(1_000_000).checked_div(self.min_rate);
        micros.map_or(Duration::ZERO, Duration::from_micros)
    }

    /// Returns the longest time that the client may take for `bytes`; `None` without a minimum
    /// rate.
    pub(crate) fn max_time_for(&self, bytes: u64) -> Option<Duration> {
        (self.min_rate > 0).then(|| self.credit + self.time_for(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace() -> RateLimiter {
        RateLimiter::new(1000, 10 * SECOND)
    }

    #[test]
    fn who_trickles_is_found_out_after_a_window() {
        let mut pace = pace();
        let kept = (0..100).take_while(|_| pace.record(SECOND, 10)).count();
        assert_eq!(kept, 10);
    }

    #[test]
    fn who_keeps_the_rate_goes_on_for_ever() {
        let mut pace = pace();
        assert!((0..10_000).all(|_| pace.record(SECOND, 1000)));
        // In chunks of one window too.
        assert!((0..10_000).all(|_| pace.record(10 * SECOND, 10_000)));
    }

    #[test]
    fn one_long_pause_is_forgiven_and_a_second_one_is_not() {
        let mut pace = pace();
        assert!(pace.record(1000 * SECOND, 1));
        assert!(!pace.record(1000 * SECOND, 1));
    }

    #[test]
    fn speed_gives_no_lead_beyond_a_window() {
        let mut pace = pace();
        assert!(pace.record(SECOND, 1_000_000_000));
        assert!(pace.record(10 * SECOND, 0));
        assert!(!pace.record(SECOND, 0));
    }

    #[test]
    fn without_a_rate_anything_will_do() {
        let mut pace = RateLimiter::new(0, SECOND);
        assert!((0..100).all(|_| pace.record(SECOND, 0)));
    }
}
