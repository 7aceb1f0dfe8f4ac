//! Suppresses repeated log lines.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use osproxy_types::error_chain;

/// Minimum time between two consecutive log lines with the same error.
const REPEAT_AFTER: Duration = Duration::from_mins(10);

/// Remembers the latest logged error, so that an operation that is retried every few seconds does
/// not log the same error each time.
#[derive(Default)]
pub(super) struct LogThrottle(Mutex<Option<(String, Instant)>>);

impl LogThrottle {
    /// Logs an error, unless the latest logged error is the same and was logged less than
    /// [`REPEAT_AFTER`] ago.
    pub(super) fn log(&self, what: &'static str, error: &(dyn std::error::Error + 'static)) {
        let error = error_chain(error);
        if self.should_log(&error) {
            tracing::error!(error, "{what}");
        }
    }

    fn should_log(&self, trouble: &str) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|(known, at)| known == trouble && at.elapsed() < REPEAT_AFTER) {
            return false;
        }
        *last = Some((trouble.to_owned(), Instant::now()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_again_is_no_news() {
        let troubles = LogThrottle::default();
        let news: Vec<_> =
            ["a", "a", "b", "b", "a"].into_iter().map(|text| troubles.should_log(text)).collect();
        assert_eq!(news, [true, false, true, false, true]);
    }
}
