//! A local estimate of the database's clock.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sea_orm::DbErr;

use crate::db::{dialect, instrumented::InstrumentedReader};

/// Maximum age of an estimate before the database is asked again.
const MAX_SYNC_AGE: Duration = Duration::from_secs(10);

/// The database's clock, accurate to the duration of one query. Leases use this clock because all
/// nodes share it, even if the clocks of the nodes differ. All clones share one estimate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    /// When the database was asked most recently, and the answer in milliseconds since the Unix
    /// epoch.
    last_sync: Arc<Mutex<Option<(Instant, i64)>>>,
}

impl Clock {
    /// Current time in milliseconds since the Unix epoch. Uses this process's own clock before the
    /// first sync, and always for SQLite.
    pub(crate) fn now_ms(&self) -> i64 {
        match *self.last_sync.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((at, database_ms)) => {
                database_ms.saturating_add(at.elapsed().as_millis().try_into().unwrap_or(i64::MAX))
            }
            None => crate::now_ms(),
        }
    }

    /// Asks the database for the time, unless the most recent answer is less than 10 seconds old.
    pub(crate) async fn sync(&self, reader: &InstrumentedReader) -> Result<(), DbErr> {
        let is_fresh = {
            let last_sync = self.last_sync.lock().unwrap_or_else(PoisonError::into_inner);
            last_sync.is_some_and(|(at, _)| at.elapsed() < MAX_SYNC_AGE)
        };
        if is_fresh {
            return Ok(());
        }
        let database_ms = dialect::clock_ms(reader).await?;
        let last_sync = database_ms.map(|database_ms| (Instant::now(), database_ms));
        *self.last_sync.lock().unwrap_or_else(PoisonError::into_inner) = last_sync;
        Ok(())
    }
}
