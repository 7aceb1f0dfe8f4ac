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

use super::{CoordError, Coordinator, Describe, Event, KnownNode, Message, Node, WorkerLease};
use crate::uid::WorkerId;

/// Coordinator of a single node.
pub struct InProcess {
    node: Mutex<Option<Describe>>,
    events: broadcast::Sender<Event>,
    /// `None` if something else ensures that there is only one node.
    _lock: Option<OwnedFd>,
}

impl InProcess {
    /// Locks the database with a file `<database>.lock`. Fails with `WouldBlock` if another process
    /// holds the lock. Blocks briefly: call it at startup.
    pub fn open(database: &Path) -> io::Result<Self> {
        let mut lock = database.as_os_str().to_owned();
        lock.push(".lock");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&lock, flags, Mode::from_bits_retain(0o600))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { _lock: Some(lock), ..Self::alone() })
    }

    /// Creates a coordinator without a lock; the caller ensures that there is no other node.
    pub fn alone() -> Self {
        Self { node: Mutex::default(), events: broadcast::Sender::new(1), _lock: None }
    }
}

#[async_trait]
impl Coordinator for InProcess {
    fn worker(&self) -> Option<WorkerLease> {
        Some(WorkerLease::for_ever(WorkerId::FIRST))
    }

    async fn announce(&self, describe: Describe) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(describe);
    }

    async fn nodes(&self) -> Result<Vec<KnownNode>, CoordError> {
        let describe = self.node.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let last_heartbeat = now.as_millis().try_into().unwrap_or(i64::MAX);
        Ok(describe.map(|describe| KnownNode { node: describe(), last_heartbeat }).into_iter().collect())
    }

    async fn node_with(&self, store: &str) -> Result<Option<Node>, CoordError> {
        let nodes = self.nodes().await?;
        Ok(nodes
            .into_iter()
            .map(|known| known.node)
            .find(|node| node.own_stores.iter().any(|own| own == store)))
    }

    fn send(&self, _: Message) {}

    fn listen(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn hears(&self) -> bool {
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
    fn a_database_has_one_node() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("osproxy.db");
        let first = InProcess::open(&database).unwrap();
        let second = InProcess::open(&database);
        assert_eq!(second.err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        InProcess::open(&database).unwrap();
    }
}
