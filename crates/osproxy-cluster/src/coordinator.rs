//! What nodes need of each other, as a trait.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::{Event, Message, WorkerLease};

/// Coordination of nodes. The correctness of stored data never depends on it.
#[async_trait]
pub trait Coordinator: Send + Sync + 'static {
    /// The worker id under which this node may issue uids; `None` while it holds none.
    fn worker_lease(&self) -> Option<WorkerLease>;

    /// Registers this node; each heartbeat publishes the current result of `describe`.
    async fn announce(&self, describe: DescribeNode);

    /// Nodes with a recent heartbeat, including this one once it is announced.
    async fn list_nodes(&self) -> Result<Vec<RegisteredNode>, CoordError>;

    /// The node that has exclusive access to `store` and a recent heartbeat. The cost does not
    /// depend on the number of nodes. Fails while the registry may still be incomplete.
    async fn find_owner(&self, store: &str) -> Result<Option<NodeDescription>, CoordError>;

    /// Sends a message to the other nodes that are connected now. Never waits.
    fn publish(&self, message: Message);

    /// Subscribes to messages of other nodes.
    fn subscribe(&self) -> broadcast::Receiver<Event>;

    /// Whether messages of other nodes are received at the moment.
    fn is_connected(&self) -> bool;

    /// Releases the worker id and unregisters this node. Call it after the last uid was issued;
    /// takes a few seconds at most.
    async fn leave(&self);
}

/// Describes a node at this moment.
pub type DescribeNode = Arc<dyn Fn() -> NodeDescription + Send + Sync>;

/// A node's description of itself. Nodes of other versions may omit fields or add unknown ones,
/// which are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// Unique id of the process.
    pub id: String,
    /// Host and port at which other nodes reach it.
    pub address: String,
    /// Version of osproxy.
    pub version: String,
    /// Ids of the stores that it can access, as recorded in rows; the store of new files comes
    /// first.
    #[serde(default)]
    pub stores: Vec<String>,
    /// Stores that only this node can access.
    #[serde(default)]
    pub own_stores: Vec<String>,
    /// When it started, in milliseconds since the Unix epoch.
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
    /// Load average of its machine over the last minute.
    pub load_average: f64,
}

/// A node in the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisteredNode {
    /// Its description.
    pub node: NodeDescription,
    /// Time of its last heartbeat, in milliseconds since the Unix epoch.
    pub last_heartbeat: i64,
}

/// The registry or another node cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CoordError(pub(crate) String);
