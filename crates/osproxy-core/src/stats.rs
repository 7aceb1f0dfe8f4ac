//! Database statistics, with a cache.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use osproxy_meta::DatabaseStats;
use tokio::sync::Mutex;

use crate::{App, Error, Result};

/// How long statistics are reused.
const STATS_TTL: Duration = Duration::from_secs(10);

/// The last statistics, and when they were read.
pub(crate) type StatsCache = Arc<Mutex<Option<(Instant, Arc<DatabaseStats>)>>>;

impl App {
    /// Returns database statistics, at most ten seconds old. Counting reads whole tables, so it
    /// runs once at a time, and continues when the request that started it is dropped.
    pub async fn stats(self: &Arc<Self>) -> Result<Arc<DatabaseStats>> {
        let app = self.clone();
        let counting = self.detached_work.spawn(async move {
            let mut counted = app.stats_cache.lock().await;
            if let Some((at, stats)) = &*counted
                && at.elapsed() < STATS_TTL
            {
                return Ok(stats.clone());
            }
            let stats = Arc::new(app.meta.admin.stats().await?);
            *counted = Some((Instant::now(), stats.clone()));
            Ok(stats)
        });
        counting.await.map_err(Error::internal)?
    }
}
