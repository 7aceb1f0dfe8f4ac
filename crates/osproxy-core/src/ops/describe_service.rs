//! Describe the service.

use std::sync::Arc;

pub use osproxy_meta::DatabaseStats;

use crate::{App, Result};

/// Returns database statistics, at most some seconds old.
pub async fn describe_service(app: &Arc<App>) -> Result<Arc<DatabaseStats>> {
    app.stats().await
}
