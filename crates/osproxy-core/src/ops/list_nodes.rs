//! List the nodes of the cluster.

use osproxy_cluster::Coordinator;

use crate::{Error, Result, boxed_future};

pub use crate::RegisteredNode;

/// Returns the nodes with a recent heartbeat, including this one.
#[boxed_future]
pub async fn list_nodes(coordinator: &dyn Coordinator) -> Result<Vec<RegisteredNode>> {
    coordinator.list_nodes().await.map_err(Error::unavailable)
}
