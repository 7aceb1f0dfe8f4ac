//! Tell how much there is of everything.

use std::sync::Arc;

pub use crate::meta::Stats;

use crate::{Result, app::App};

/// How much there is of everything, as it was counted some seconds ago at most.
pub async fn describe_service(app: &Arc<App>) -> Result<Arc<Stats>> {
    app.stats().await
}
