//! Does everything that requests need answer?

use std::sync::Arc;

pub use crate::app::Need;
use crate::{Result, app::App};

/// Whether requests are welcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Nothing is missing.
    Ready,
    /// Requests are welcome, even if some of them cannot be served now: this is down.
    Degraded(Vec<Need>),
    /// Requests should go to another node: this is down.
    Unavailable(Vec<Need>),
    /// The node stops.
    Draining,
}

impl Readiness {
    /// Whether the node is to have any.
    pub fn is_welcome(&self) -> bool {
        matches!(self, Self::Ready | Self::Degraded(_))
    }
}

/// Looks whether everything that requests need answers.
pub async fn readiness(app: &Arc<App>) -> Readiness {
    if app.is_draining() {
        return Readiness::Draining;
    }
    let down = app.what_is_down().await;
    match (down.is_empty(), app.is_better_spared(&down)) {
        (true, _) => Readiness::Ready,
        (false, false) => Readiness::Degraded(down),
        (false, true) => Readiness::Unavailable(down),
    }
}

/// Touches the database.
pub async fn check_health(app: &App) -> Result<()> {
    Ok(app.meta.ping().await?)
}
