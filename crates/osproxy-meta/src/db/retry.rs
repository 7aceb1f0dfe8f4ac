//! Retries of transactions that lost a race.
//!
//! [`retry_conflicts`] repeats an operation whose transaction violated a unique key. The other
//! transaction has committed by then. So the next attempt starts immediately and sees the row of
//! the other transaction.
//!
//! The connection pool of a server repeats a transaction that the server aborted because of a
//! conflict, such as a deadlock or a serialization failure. The other transaction may still be
//! running, so the pool waits for [`backoff`] before each retry and stops at the deadline of the
//! operation.

use std::time::Duration;

use crate::MetaError;

/// Maximum backoff after an aborted transaction.
const MAX_BACKOFF: Duration = Duration::from_millis(100);

/// Runs `operation` until its outcome is not a conflict, at most `max_attempts` times and at least
/// once. Returns the outcome of the final attempt.
pub(crate) async fn retry_conflicts<T, F>(
    max_attempts: u32,
    operation: impl Fn() -> F,
) -> Result<T, MetaError>
where
    F: Future<Output = Result<T, MetaError>>,
{
    for _ in 1..max_attempts {
        match operation().await {
            Err(MetaError::Conflict(_)) => {}
            outcome => return outcome,
        }
    }
    operation().await
}

/// Exponential backoff with full jitter, so that conflicting transactions are unlikely to conflict
/// again.
pub(crate) fn backoff(conflicts: u32) -> Duration {
    let full = Duration::from_millis(1 << conflicts.min(7)).min(MAX_BACKOFF);
    let mut random = [0; 2];
    let share = getrandom::fill(&mut random).map_or(u16::MAX, |()| u16::from_be_bytes(random));
    full * u32::from(share) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use sea_orm::DbErr;

    use super::*;
    use crate::DriverError;

    fn conflict() -> MetaError {
        MetaError::Conflict(DriverError(DbErr::Custom("the key exists".to_owned())))
    }

    #[tokio::test]
    async fn conflicts_are_retried_up_to_the_maximum() {
        let attempts = Cell::new(0);
        let fails_below = |succeeds_at| {
            attempts.set(0);
            let attempts = &attempts;
            move || {
                attempts.set(attempts.get() + 1);
                let attempt = attempts.get();
                async move { if attempt < succeeds_at { Err(conflict()) } else { Ok(attempt) } }
            }
        };
        assert_eq!(retry_conflicts(3, fails_below(3)).await.unwrap(), 3);
        let outcome = retry_conflicts(3, fails_below(4)).await;
        assert!(matches!(outcome, Err(MetaError::Conflict(_))), "{outcome:?}");
        assert_eq!(attempts.get(), 3);
        assert_eq!(retry_conflicts(1, fails_below(1)).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn other_errors_are_not_retried() {
        let attempts = Cell::new(0);
        let outcome: Result<(), _> = retry_conflicts(3, || {
            attempts.set(attempts.get() + 1);
            async { Err(MetaError::from(DbErr::Custom("a row is damaged".to_owned()))) }
        })
        .await;
        assert!(matches!(outcome, Err(MetaError::Bug(_))), "{outcome:?}");
        assert_eq!(attempts.get(), 1);
    }

    #[test]
    fn the_backoff_never_exceeds_its_maximum() {
        for conflicts in 1..40 {
            assert!(backoff(conflicts) <= MAX_BACKOFF);
        }
    }
}
