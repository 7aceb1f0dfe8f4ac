//! Database statistics, with a cache.

use std::{sync::Arc, time::Duration};

use osproxy_meta::DatabaseStats;

use crate::{App, Result};

/// How long statistics are reused.
pub(crate) const STATS_TTL: Duration = Duration::from_secs(10);

impl App {
    /// Returns database statistics. Counting reads whole tables, so a result is reused for 10
    /// seconds, and at most one count runs at a time. A count continues when the request that
    /// started it is dropped.
    pub async fn stats(self: &Arc<Self>) -> Result<Arc<DatabaseStats>> {
        let meta = self.meta.clone();
        let count = async move { Ok(Arc::new(meta.admin.stats().await?)) };
        self.stats_cache.get(count).await
    }
}
