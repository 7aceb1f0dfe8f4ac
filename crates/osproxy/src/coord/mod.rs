//! What nodes have to agree on. One node agrees with itself.

#[cfg(test)]
mod contract;
mod lease;
mod memory;
mod message;
mod redis;

pub use lease::WorkerLease;
pub use memory::InProcess;
pub use message::{Event, Message};
pub use redis::{ThroughRedis, registry};

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// The ways in which nodes know of each other. Correctness of stored data never rests on it.
#[async_trait]
pub trait Coordinator: Send + Sync + 'static {
    /// The worker number that this node may issue uids under; `None` while it has none.
    fn worker(&self) -> Option<WorkerLease>;

    /// Tells others from now on that this node is there, and with every heartbeat what it says of itself then.
    async fn announce(&self, describe: Describe);

    /// The nodes that were heard of lately, this one among them once it is announced.
    async fn nodes(&self) -> Result<Vec<KnownNode>, CoordError>;

    /// The node that alone has a store at hand, if it was heard of lately. Costs the same however many nodes there are. An
    /// error where it may not have been heard yet.
    async fn node_with(&self, store: &str) -> Result<Option<Node>, CoordError>;

    /// Tells other nodes, those that can be reached now. Never waits.
    fn send(&self, message: Message);

    /// What other nodes tell from now on.
    fn listen(&self) -> broadcast::Receiver<Event>;

    /// Whether other nodes can be heard at this moment.
    fn hears(&self) -> bool;

    /// Gives the worker number back and disappears. To be called when nothing is issued any more; takes a few seconds at
    /// most.
    async fn leave(&self);
}

/// Says what a node is like at this moment.
pub type Describe = Arc<dyn Fn() -> Node + Send + Sync>;

/// What a node says of itself. Nodes of other versions may say less, or more, which is passed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// What the process is called; no two have the same.
    pub id: String,
    /// Host and port at which other nodes reach it.
    pub address: String,
    /// Of the program.
    pub version: String,
    /// What rows call the stores whose objects it has at hand, that of new files first.
    #[serde(default)]
    pub stores: Vec<String>,
    /// Those of them that no other node has at hand.
    #[serde(default)]
    pub own_stores: Vec<String>,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_at: i64,
    /// How busy it is.
    #[serde(default)]
    pub load: Load,
}

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Requests that are running.
    pub requests: u64,
    /// Tasks that are running.
    pub tasks: u64,
    /// Processes of its machine that run or wait to, on average over the last minute.
    pub load_average: f64,
}

/// A node that was heard of.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownNode {
    /// What it says of itself.
    pub node: Node,
    /// When it was heard of last, in milliseconds since the Unix epoch.
    pub heard_at: i64,
}

/// Why nodes cannot be asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CoordError(String);
