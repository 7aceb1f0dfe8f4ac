//! Free space of a disk, and a check that a folder is writable.

use std::{
    io::{self, Write},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

/// Space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Size of the whole file system.
    pub total: u64,
    /// Bytes that this process can still use.
    pub free: u64,
}

impl DiskSpace {
    /// The space of the file system that holds `folder`. Blocks the thread.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
    }
}

/// Checks that `folder` is writable: writes 4 KiB to an unnamed temporary file, which disappears
/// when it is closed. Blocks the thread. On file systems that do not support `O_TMPFILE`, succeeds
/// without a check.
pub fn check_writable(folder: &Path) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file,
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    std::fs::File::from(file).write_all(&[0; 4096])
}
