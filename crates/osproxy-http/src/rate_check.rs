//! Minimum transfer rates for clients. `middleware/body_timeouts.rs` aborts slow uploads, and
//! `listener/timeouts.rs` aborts slow downloads.

use std::time::Duration;

/// Token bucket that checks a minimum rate. The tokens are time. Each byte adds the time that one
/// byte takes at the minimum rate. Waiting for the client spends time; waiting for anything else
/// does not.
///
/// The bucket holds at most `window`, and starts full. A single wait spends at most `window`, so a
/// client may make one long pause. Timeouts limit the length of a pause.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MinRateCheck {
    /// In bytes per second; 0 disables the check.
    min_rate: u64,
    window: Duration,
    credit: Duration,
}

impl MinRateCheck {
    /// Requires `min_rate` bytes per second on average. `window` is the size of the bucket.
    pub(crate) const fn new(min_rate: u64, window: Duration) -> Self {
        Self { min_rate, window, credit: window }
    }

    /// Records that the service waited for the client for `waited`, and that `bytes` were then
    /// transferred. Returns `false` if the client is too slow.
    pub(crate) fn record(&mut self, waited: Duration, bytes: u64) -> bool {
        if self.min_rate == 0 {
            return true;
        }
        let Some(credit) = (self.credit + self.time_for(bytes)).checked_sub(waited.min(self.window)) else {
            return false;
        };
        self.credit = credit.min(self.window);
        true
    }

    /// Returns the time for `bytes` at the minimum rate; zero if there is no minimum rate.
    pub(crate) fn time_for(&self, bytes: u64) -> Duration {
        let micros = bytes.saturating_mul(1_000_000).checked_div(self.min_rate);
        micros.map_or(Duration::ZERO, Duration::from_micros)
    }

    /// Returns the longest time that the client may take for `bytes`; `None` if there is no minimum
    /// rate.
    pub(crate) fn max_time_for(&self, bytes: u64) -> Option<Duration> {
        (self.min_rate > 0).then(|| self.credit + self.time_for(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn check() -> MinRateCheck {
        MinRateCheck::new(1000, 10 * SECOND)
    }

    #[test]
    fn a_slow_client_fails_after_one_window() {
        let mut check = check();
        let accepted = (0..100).take_while(|_| check.record(SECOND, 10)).count();
        assert_eq!(accepted, 10);
    }

    #[test]
    fn a_client_at_the_minimum_rate_never_fails() {
        let mut check = check();
        assert!((0..10_000).all(|_| check.record(SECOND, 1000)));
        // Chunks that take one whole window pass too.
        assert!((0..10_000).all(|_| check.record(10 * SECOND, 10_000)));
    }

    #[test]
    fn a_second_long_pause_fails() {
        let mut check = check();
        assert!(check.record(1000 * SECOND, 1));
        assert!(!check.record(1000 * SECOND, 1));
    }

    #[test]
    fn fast_transfer_gains_at_most_one_window() {
        let mut check = check();
        assert!(check.record(SECOND, 1_000_000_000));
        assert!(check.record(10 * SECOND, 0));
        assert!(!check.record(SECOND, 0));
    }

    #[test]
    fn no_minimum_rate_disables_the_check() {
        let mut check = MinRateCheck::new(0, SECOND);
        assert!((0..100).all(|_| check.record(SECOND, 0)));
    }
}
