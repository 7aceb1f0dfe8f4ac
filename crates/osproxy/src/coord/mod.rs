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
pub use redis::ThroughRedis;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// The ways in which nodes know of each other. Correctness of stored data never rests on it.
#[async_trait]
pub trait Coordinator: Send + Sync + 'static {
    /// The worker number that this node may issue uids under; `None` while it has none.
    fn worker(&self) -> Option<WorkerLease>;

    /// Tells others from now on that this node is there.
    async fn announce(&self, node: Node);

    /// The nodes that were heard of lately, this one among them once it is announced.
    async fn nodes(&self) -> Result<Vec<KnownNode>, CoordError>;

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

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What the process is called; no two have the same.
    pub id: String,
    /// Where it listens.
    pub address: String,
    /// Of the program.
    pub version: String,
    /// What rows call the store whose objects it has at hand.
    pub store: String,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_at: i64,
}

/// A node that was heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
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
