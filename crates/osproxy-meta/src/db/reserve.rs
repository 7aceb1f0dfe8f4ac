//! Disk space reserved for the database. When the disk is full, the reserve is released to the
//! database, so that deletions, which free disk space, can still be recorded.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::{
    fs::{FallocateFlags, Mode, OFlags},
    io::Errno,
};

/// Bytes reserved. The write-ahead log needs about 4 MiB, and a few hundred deletions need about
/// another 4 MiB.
pub(crate) const RESERVE_BYTES: u64 = 16 << 20;
/// Interval between attempts to allocate a released reserve again.
pub(crate) const REFILL_INTERVAL: Duration = Duration::from_secs(1);

/// A file next to the database that occupies the reserved space.
pub(crate) struct Reserve {
    path: PathBuf,
    is_spent: AtomicBool,
}

impl Reserve {
    /// Allocates the space next to a database file. If that fails, logs a warning and continues
    /// without a reserve. Blocks the thread.
    pub(crate) fn create(database: &Path) -> Self {
        let mut name = database.file_name().unwrap_or_default().to_owned();
        name.push("-reserve");
        let reserve = Self { path: database.with_file_name(name), is_spent: AtomicBool::new(false) };
        if let Err(error) = reserve.allocate(RESERVE_BYTES) {
            tracing::warn!(%error, "cannot reserve disk space; deletions will fail while the disk is full");
        }
        reserve
    }

    /// Whether a write has found the disk full, and [`refill`](Self::refill) has not found enough
    /// free space since.
    pub(crate) fn is_spent(&self) -> bool {
        self.is_spent.load(Ordering::Relaxed)
    }

    /// Releases the space to the database. Returns `false` if no space was reserved. Blocks the
    /// thread.
    pub(crate) fn spend(&self) -> bool {
        let is_released = rustix::fs::unlink(&self.path).is_ok();
        if !self.is_spent.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "the disk of the database is full; uploads are rejected until space is freed, but deletions still work"
            );
        }
        is_released
    }

    /// Allocates the space again if twice as much is free on the disk. Blocks the thread.
    pub(crate) fn refill(&self) {
        match self.allocate(2 * RESERVE_BYTES) {
            Err(Errno::NOSPC | Errno::DQUOT) => {}
            // Any other error does not mean that the disk is full: the file system may lack
            // `fallocate`, for example.
            Ok(()) | Err(_) => self.is_spent.store(false, Ordering::Relaxed),
        }
    }

    /// Allocates the space unless it is allocated already. Returns `NOSPC` if fewer than
    /// `required_free` bytes are free.
    fn allocate(&self, required_free: u64) -> rustix::io::Result<()> {
        // A file may exist without being allocated. `st_blocks` counts its blocks of 512 bytes.
        let is_allocated =
            |stat: rustix::fs::Stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512 >= RESERVE_BYTES;
        if rustix::fs::stat(&self.path).is_ok_and(is_allocated) {
            return Ok(());
        }
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let disk = rustix::fs::statvfs(folder.unwrap_or(Path::new(".")))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < required_free {
            return Err(Errno::NOSPC);
        }
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.path, flags, Mode::from_bits_retain(0o600))?;
        let allocation = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES);
        if allocation.is_err() {
            let _ = rustix::fs::unlink(&self.path);
        }
        allocation
    }
}
