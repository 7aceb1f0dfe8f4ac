//! How much there is of everything, counted seldom.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::App;
use crate::{Error, Result, meta::Stats};

/// How long what was counted is good enough.
const GOOD_ENOUGH: Duration = Duration::from_secs(10);

/// What was counted last, and when that was done.
pub(super) type Counted = Arc<Mutex<Option<(Instant, Arc<Stats>)>>>;

impl App {
    /// How much there is of everything. Counting reads whole tables, so it is done once at a time, however many ask and go
    /// away again, and not anew for a while.
    pub async fn stats(self: &Arc<Self>) -> Result<Arc<Stats>> {
        let app = self.clone();
        let counting = self.background.spawn(async move {
            let mut counted = app.counted.lock().await;
            if let Some((at, stats)) = &*counted
                && at.elapsed() < GOOD_ENOUGH
            {
                return Ok(stats.clone());
            }
            let stats = Arc::new(app.meta.stats().await?);
            *counted = Some((Instant::now(), stats.clone()));
            Ok(stats)
        });
        counting.await.map_err(Error::internal)?
    }
}
