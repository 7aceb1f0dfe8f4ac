//! Check whether the node is healthy and ready.

use std::sync::Arc;

pub use crate::app::{Condition, Need};
use crate::{Error, Result, app::App};

/// Readiness of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// All dependencies work.
    Ready,
    /// The node accepts requests, although some of them may fail now.
    Degraded(Condition),
    /// Requests should go to another node.
    Unavailable(Condition),
    /// The node is about to stop.
    Draining,
}

impl Readiness {
    /// Whether the node accepts requests.
    pub fn is_welcome(&self) -> bool {
        matches!(self, Self::Ready | Self::Degraded(_))
    }
}

/// Returns the readiness of the node. Health checks are cached for some seconds.
pub async fn readiness(app: &Arc<App>) -> Readiness {
    if app.is_draining() {
        return Readiness::Draining;
    }
    let condition = app.condition().await;
    match (condition.failed.is_empty(), app.is_better_spared(&condition.failed)) {
        (true, _) => Readiness::Ready,
        (false, false) => Readiness::Degraded(condition),
        (false, true) => Readiness::Unavailable(condition),
    }
}

/// Fails while the database does not answer.
pub async fn check_health(app: &Arc<App>) -> Result<()> {
    if app.condition().await.failed.contains(&Need::Database) {
        return Err(Error::unavailable("the database does not answer"));
    }
    Ok(())
}
