//! The database's clock, as it is known here.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sea_orm::DbErr;

use super::{dialect, measured::Measured};

/// After how long the database is asked again what time it is.
const STALE: Duration = Duration::from_secs(10);

/// What time the database has, within the time that a question to it takes: leases are measured by it, since every node
/// sees the same one, whatever its own clock says.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    /// When the database was asked, and what it said, in milliseconds since the Unix epoch.
    asked: Arc<Mutex<Option<(Instant, i64)>>>,
}

impl Clock {
    /// Milliseconds since the Unix epoch. It is this process's own time where the database has no other.
    pub(super) fn now_ms(&self) -> i64 {
        match *self.asked.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((at, said)) => said.saturating_add(at.elapsed().as_millis().try_into().unwrap_or(i64::MAX)),
            None => super::now_ms(),
        }
    }

    /// Asks the database, if it was not asked lately.
    pub(super) async fn adjust(&self, reader: &Measured) -> Result<(), DbErr> {
        let fresh = {
            let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.is_some_and(|(at, _)| at.elapsed() < STALE)
        };
        if fresh {
            return Ok(());
        }
        let said = dialect::clock_ms(reader).await?;
        let asked = said.map(|said| (Instant::now(), said));
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        Ok(())
    }
}
