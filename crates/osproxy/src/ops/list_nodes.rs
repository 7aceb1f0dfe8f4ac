//! List the nodes of the cluster.

use crate::{Error, Result, app::App};

pub use crate::app::KnownNode;

/// Returns the nodes with a recent heartbeat, including this one.
pub async fn list_nodes(app: &App) -> Result<Vec<KnownNode>> {
    app.coordinator.nodes().await.map_err(Error::unavailable)
}
