//! Coordination of a single node, within its process.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio::sync::broadcast;

use crate::{
    CoordError, Coordinator, DescribeNode, Event, Message, NodeDescription, RegisteredNode, WorkerId,
    WorkerLease,
};

/// Coordinator of a single node.
pub struct LocalCoordinator {
    node: Mutex<Option<DescribeNode>>,
    events: broadcast::Sender<Event>,
    /// The lock of the database. `None` if the caller ensures that there is no other node.
    _lock: Option<OwnedFd>,
}

impl LocalCoordinator {
    /// Creates a coordinator and locks the file `<database>.lock`. Fails with `WouldBlock` if
    /// another process holds the lock. Blocks briefly: call this at startup.
    pub fn open(database: &Path) -> io::Result<Self> {
        let mut lock = database.as_os_str().to_owned();
        lock.push(".lock");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&lock, flags, Mode::from_bits_retain(0o600))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { _lock: Some(lock), ..Self::without_lock() })
    }

    /// Creates a coordinator without a lock; the caller ensures that there is no other node.
    pub fn without_lock() -> Self {
        Self { node: Mutex::default(), events: broadcast::Sender::new(1), _lock: None }
    }
}

#[async_trait]
impl Coordinator for LocalCoordinator {
    fn worker_lease(&self) -> Option<WorkerLease> {
        Some(WorkerLease::permanent(WorkerId::SINGLE_NODE))
    }

    async fn announce(&self, describe: DescribeNode) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(describe);
    }

    async fn list_nodes(&self) -> Result<Vec<RegisteredNode>, CoordError> {
        let describe = self.node.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let last_heartbeat = now.as_millis().try_into().unwrap_or(i64::MAX);
        Ok(describe.map(|describe| RegisteredNode { node: describe(), last_heartbeat }).into_iter().collect())
    }

    async fn find_owner(&self, store: &str) -> Result<Option<NodeDescription>, CoordError> {
        let nodes = self.list_nodes().await?;
        Ok(nodes
            .into_iter()
            .map(|registered| registered.node)
            .find(|node| node.own_stores.iter().any(|own| own == store)))
    }

    fn publish(&self, _: Message) {}

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn is_connected(&self) -> bool {
        true
    }

    async fn leave(&self) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_locked_by_one_node() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("osproxy.db");
        let first = LocalCoordinator::open(&database).unwrap();
        let second = LocalCoordinator::open(&database);
        assert_eq!(second.err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        LocalCoordinator::open(&database).unwrap();
    }
}
