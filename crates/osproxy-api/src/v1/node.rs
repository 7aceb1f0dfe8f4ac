use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::Moment;

/// The nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Nodes {
    /// Nodes with a recent heartbeat. A single node lists only itself.
    pub nodes: Vec<Node>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Unique id of the process.
    #[schema(example = "b5f1c2a0d3e4f607")]
    pub id: String,
    /// Host and port at which other nodes reach this node.
    #[schema(example = "10.0.0.7:8888")]
    pub address: String,
    /// Version of osproxy.
    #[schema(example = "0.1.0")]
    pub version: String,
    /// Stores that this node can access; the store of new files comes first.
    pub stores: Vec<String>,
    /// Stores that only this node can access.
    pub own_stores: Vec<String>,
    /// When the node started.
    #[schema(value_type = Moment)]
    pub started_at: String,
    /// When the latest heartbeat was received.
    #[schema(value_type = Moment)]
    pub heard_at: String,
    /// Current load.
    pub load: NodeLoad,
}

/// Load of a node.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeLoad {
    /// Number of running requests.
    pub requests: u64,
    /// Number of running tasks.
    pub tasks: u64,
    /// Load average of the machine over the last minute.
    pub load_average: f64,
}
