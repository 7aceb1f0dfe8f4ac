//! Database statistics, with a cache.

use std::{sync::Arc, time::Duration};

use osproxy_meta::DatabaseStats;

use crate::{App, Error, Result};

/// How long statistics are reused.
pub(crate) const STATS_TTL: Duration = Duration::from_secs(10);

impl App {
    /// Returns database statistics, at most ten seconds old. Counting reads whole tables, so it
    /// runs once at a time, and continues when the request that started it is dropped.
    pub async fn stats(self: &Arc<Self>) -> Result<Arc<DatabaseStats>> {
        let app = self.clone();
        let count = async move {
            let meta = app.meta.clone();
            let counting = app.detached_work.spawn(async move { meta.admin.stats().await });
            Ok(Arc::new(counting.await.map_err(Error::internal)??))
        };
        self.stats_cache.get(count).await
    }
}
