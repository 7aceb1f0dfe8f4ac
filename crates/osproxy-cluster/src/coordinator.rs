//! The trait through which nodes coordinate.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::{Event, Message, WorkerLease};

/// Coordinates nodes. Stored data stays correct even if coordination fails.
#[async_trait]
pub trait Coordinator: Send + Sync + 'static {
    /// The lease of the worker id under which this node may issue uids; `None` while this node
    /// holds no valid lease.
    fn worker_lease(&self) -> Option<WorkerLease>;

    /// Registers this node. Each heartbeat calls `describe` and publishes the result.
    async fn announce(&self, describe: DescribeNode);

    /// Nodes with a recent heartbeat, including this node once it is announced. Fails if the
    /// registry is unavailable.
    async fn list_nodes(&self) -> Result<Vec<RegisteredNode>, CoordError>;

    /// The node with exclusive access to `store`; `None` if no such node has a recent heartbeat.
    /// Fails if the registry is unavailable. Also fails if the registry lists no such node but is
    /// possibly incomplete. The cost does not depend on the number of nodes.
    async fn find_owner(&self, store: &str) -> Result<Option<NodeDescription>, CoordError>;

    /// Sends a message to the other nodes that are connected now. Never waits. The message can get
    /// lost.
    fn publish(&self, message: Message);

    /// Subscribes to messages of other nodes.
    fn subscribe(&self) -> broadcast::Receiver<Event>;

    /// Whether this node can receive messages of other nodes now.
    fn is_connected(&self) -> bool;

    /// Releases the worker id and unregisters this node. This node must not issue uids afterwards.
    /// Takes a few seconds at most.
    async fn leave(&self);
}

/// Returns the current description of this node.
pub type DescribeNode = Arc<dyn Fn() -> NodeDescription + Send + Sync>;

/// A node's description of itself. Fields that have a default can be missing if the node runs
/// another version of osproxy. Unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// Unique id of the process.
    pub id: String,
    /// Host and port at which other nodes reach this node.
    pub address: String,
    /// Version of osproxy.
    pub version: String,
    /// Ids of the stores that this node can access, in the form that database rows contain. The
    /// first one is the store for new files.
    #[serde(default)]
    pub stores: Vec<String>,
    /// Ids of the stores that only this node can access.
    #[serde(default)]
    pub own_stores: Vec<String>,
    /// When the node started, in milliseconds since the Unix epoch.
    pub started_at: i64,
    /// Current load.
    #[serde(default)]
    pub load: LoadReport,
}

/// Load of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadReport {
    /// Number of running requests.
    pub requests: u64,
    /// Number of running tasks.
    pub tasks: u64,
    /// Load average of the machine over the last minute.
    pub load_average: f64,
}

/// A node in the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisteredNode {
    /// Description of the node.
    pub node: NodeDescription,
    /// Time of the latest heartbeat, in milliseconds since the Unix epoch.
    pub last_heartbeat: i64,
}

/// The registry is unavailable, or may be incomplete.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CoordError(pub(crate) String);
