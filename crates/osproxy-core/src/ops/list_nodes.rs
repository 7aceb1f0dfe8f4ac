//! List the nodes of the cluster.

use crate::{App, Error, Result};

pub use crate::RegisteredNode;

/// Returns the nodes with a recent heartbeat, including this one.
pub async fn list_nodes(app: &App) -> Result<Vec<RegisteredNode>> {
    app.coordinator.list_nodes().await.map_err(Error::unavailable)
}
