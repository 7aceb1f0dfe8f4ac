//! Suppresses repeated log lines.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::error;

/// How often the same error is logged while it lasts.
const AGAIN: Duration = Duration::from_mins(10);

/// The last logged error. An operation that is retried every few seconds fails with the same error
/// every few seconds.
#[derive(Default)]
pub(super) struct Troubles(Mutex<Option<(String, Instant)>>);

impl Troubles {
    /// Logs an error, unless it is the same as the last one, which was logged a short time ago.
    pub(super) fn log(&self, what: &'static str, error: &(dyn std::error::Error + 'static)) {
        let error = error::chain(error);
        if self.is_news(&error) {
            tracing::error!(error, "{what}");
        }
    }

    fn is_news(&self, trouble: &str) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|(known, at)| known == trouble && at.elapsed() < AGAIN) {
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
        let troubles = Troubles::default();
        let news: Vec<_> = ["a", "a", "b", "b", "a"].into_iter().map(|text| troubles.is_news(text)).collect();
        assert_eq!(news, [true, false, true, false, true]);
    }
}
