//! Describe the service.

use std::sync::Arc;

pub use osproxy_meta::DatabaseStats;

use crate::{App, Result, boxed_future};

/// Returns database statistics, which are cached for some seconds.
#[boxed_future]
pub async fn describe_service(app: &Arc<App>) -> Result<Arc<DatabaseStats>> {
    app.stats().await
}
