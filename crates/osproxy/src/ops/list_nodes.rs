//! Tell which nodes there are.

use crate::{Error, Result, app::App};

pub use crate::app::KnownNode;

/// The nodes that were heard of lately, this one among them.
pub async fn list_nodes(app: &App) -> Result<Vec<KnownNode>> {
    app.coordinator.nodes().await.map_err(Error::unavailable)
}
