//! Room on the disk that is kept for the database file: when others have filled the disk, it is given to the database, so
//! that deletions, which make room, can still be recorded.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::{
    fs::{FallocateFlags, Mode, OFlags},
    io::Errno,
};

/// Bytes that are kept: the write-ahead log needs about 4 MiB, and some hundred deletions as much again.
pub(super) const RESERVE: u64 = 16 << 20;
/// How often it is tried to have the room again.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// A file beside the database that holds the room.
pub(super) struct Reserve {
    path: PathBuf,
    is_spent: AtomicBool,
}

impl Reserve {
    /// Keeps room for a database, if the disk has so much. Blocks.
    pub(super) fn of(database: &Path) -> Self {
        let mut name = database.file_name().unwrap_or_default().to_owned();
        name.push("-reserve");
        let reserve = Self { path: database.with_file_name(name), is_spent: AtomicBool::new(false) };
        if let Err(error) = reserve.keep(RESERVE) {
            tracing::warn!(%error, "cannot keep room for the database; a full disk would refuse deletions too");
        }
        reserve
    }

    /// Whether the disk is full and the room is given to the database.
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent.load(Ordering::Relaxed)
    }

    /// Gives the room to the database. `false`: there was none. Blocks.
    pub(super) fn spend(&self) -> bool {
        let spent = rustix::fs::unlink(&self.path).is_ok();
        if !self.is_spent.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "the disk of the database is full; nothing new is stored until there is room, deletions go on"
            );
        }
        spent
    }

    /// Takes the room again, if there is as much again beside it. Blocks.
    pub(super) fn refill(&self) {
        match self.keep(2 * RESERVE) {
            Err(Errno::NOSPC | Errno::DQUOT) => {}
            // Not every file system can keep room: there is some, at least.
            Ok(()) | Err(_) => self.is_spent.store(false, Ordering::Relaxed),
        }
    }

    /// Allocates the room, if so many bytes are free.
    fn keep(&self, free: u64) -> rustix::io::Result<()> {
        // Allocated before, of which blocks of 512 bytes tell.
        let is_kept = |kept: rustix::fs::Stat| u64::try_from(kept.st_blocks).unwrap_or(0) * 512 >= RESERVE;
        if rustix::fs::stat(&self.path).is_ok_and(is_kept) {
            return Ok(());
        }
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let disk = rustix::fs::statvfs(folder.unwrap_or(Path::new(".")))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < free {
            return Err(Errno::NOSPC);
        }
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.path, flags, Mode::from_bits_retain(0o600))?;
        let kept = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE);
        if kept.is_err() {
            let _ = rustix::fs::unlink(&self.path);
        }
        kept
    }
}
