use std::{io, os::fd::OwnedFd, path::Path};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::Coordinator;
use crate::uid::WorkerId;

/// The worker number of a node that has them all.
const WORKER: WorkerId = WorkerId::FIRST;

/// The coordinator of a node that is alone.
pub struct InProcess {
    worker_id: WorkerId,
    /// None, where something else makes sure of it.
    _lock: Option<OwnedFd>,
}

impl InProcess {
    /// Locks the database by a file `<database>.lock`. `WouldBlock`: another process holds it.
    /// Blocks for a moment: call it at start.
    pub fn open(database: &Path) -> io::Result<Self> {
        let mut lock = database.as_os_str().to_owned();
        lock.push(".lock");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&lock, flags, Mode::from_bits_retain(0o600))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { worker_id: WORKER, _lock: Some(lock) })
    }

    /// A coordinator for whoever makes sure by other means that there is no other node.
    pub fn alone() -> Self {
        Self { worker_id: WORKER, _lock: None }
    }
}

impl Coordinator for InProcess {
    fn worker_id(&self) -> WorkerId {
        self.worker_id
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
