use std::{io, os::fd::OwnedFd, path::Path};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::Coordinator;
use crate::uid::WorkerId;

/// The coordinator of a node that is alone. It holds a lock beside the database as long as it lives,
/// so that it really is.
pub struct InProcess {
    worker_id: WorkerId,
    _lock: OwnedFd,
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
        let worker_id = WorkerId::new(0).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { worker_id, _lock: lock })
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
