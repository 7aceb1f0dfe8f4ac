//! Does everything that requests need answer?

use std::sync::Arc;

pub use crate::app::{Condition, Need};
use crate::{Error, Result, app::App};

/// Whether requests are welcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Nothing is missing.
    Ready,
    /// Requests are welcome, even if some of them cannot be served now.
    Degraded(Condition),
    /// Requests should go to another node.
    Unavailable(Condition),
    /// The node stops.
    Draining,
}

impl Readiness {
    /// Whether the node is to have any.
    pub fn is_welcome(&self) -> bool {
        matches!(self, Self::Ready | Self::Degraded(_))
    }
}

/// Looks whether everything that requests need answers. What was found within the last second is good enough.
pub async fn readiness(app: &Arc<App>) -> Readiness {
    if app.is_draining() {
        return Readiness::Draining;
    }
    let condition = app.condition().await;
    match (condition.down.is_empty(), app.is_better_spared(&condition.down)) {
        (true, _) => Readiness::Ready,
        (false, false) => Readiness::Degraded(condition),
        (false, true) => Readiness::Unavailable(condition),
    }
}

/// Fails while the database does not answer.
pub async fn check_health(app: &Arc<App>) -> Result<()> {
    if app.condition().await.down.contains(&Need::Database) {
        return Err(Error::unavailable("the database does not answer"));
    }
    Ok(())
}
