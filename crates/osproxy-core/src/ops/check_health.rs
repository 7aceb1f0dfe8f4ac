//! Check whether the node is healthy and ready.

use std::sync::Arc;

use crate::{App, Error, Result, boxed_future};
pub use crate::{Dependency, Health};

/// Readiness of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// All dependencies work.
    Ready,
    /// The node accepts requests, but some of them may fail now.
    Degraded(Health),
    /// Requests should go to another node.
    Unavailable(Health),
    /// The node is about to stop.
    Draining,
}

impl Readiness {
    /// Whether the node accepts requests.
    pub fn accepts_requests(&self) -> bool {
        matches!(self, Self::Ready | Self::Degraded(_))
    }
}

/// Returns the readiness of the node. Health checks are cached for some seconds.
#[boxed_future]
pub async fn readiness(app: &Arc<App>) -> Readiness {
    if app.node.is_draining() {
        return Readiness::Draining;
    }
    let condition = app.health().await;
    match (condition.failed.is_empty(), app.should_leave_rotation(&condition.failed)) {
        (true, _) => Readiness::Ready,
        (false, false) => Readiness::Degraded(condition),
        (false, true) => Readiness::Unavailable(condition),
    }
}

/// Fails with `Unavailable` while the database does not answer.
#[boxed_future]
pub async fn check_health(app: &Arc<App>) -> Result<()> {
    if app.health().await.failed.contains(&Dependency::Database) {
        return Err(Error::unavailable("the database does not answer"));
    }
    Ok(())
}
