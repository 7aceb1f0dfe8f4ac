//! Backpressure: refuses new work while too many writes are pending.

use osproxy_api::ErrorCode;

use crate::{Error, Result};

/// Kind of work that a request starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkKind {
    /// A new upload session, or an instant upload.
    Upload,
    /// Content of an existing upload session.
    Content,
}

impl super::Admission {
    /// Returns `StorageFull` while the disk of the database is full. The remaining space is kept
    /// for operations that free space.
    pub fn check_database_space(&self) -> Result<()> {
        if self.meta.is_disk_full() {
            return Err(Error::storage_full("the disk of the database is full"));
        }
        Ok(())
    }

    /// Returns `Overloaded` while too many writes are pending, and `StorageFull` while the disk of
    /// the database is full. A pending write is a transaction that waits for the database, or
    /// received content that is not durable yet.
    ///
    /// New uploads are refused at `limits.max_pending_writes` pending writes, and content of
    /// existing uploads at 1.5 times that number. Running transfers continue, because aborting them
    /// would waste the work done for them. Downloads are never refused.
    pub fn check_backpressure(&self, beginning: WorkKind) -> Result<()> {
        self.check_database_space()?;
        let pending = self.meta.pending_writes() + self.metrics.commits.count();
        let most = match beginning {
            WorkKind::Upload => self.limits.max_pending_writes,
            WorkKind::Content => self.limits.max_pending_writes + self.limits.max_pending_writes / 2,
        };
        if pending < most {
            return Ok(());
        }
        let message = "too many pending writes; retry later";
        Err(Error::new(ErrorCode::Overloaded, message))
    }
}
