//! How much room a disk has, and whether it takes anything.

use std::{
    io::{self, Write},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

/// How much room there is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// On the whole file system.
    pub total: u64,
    /// Of it, what this process may still use.
    pub free: u64,
}

impl DiskSpace {
    /// That of the file system that a folder lies on. Blocks.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let found = rustix::fs::statvfs(folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Self { total: bytes(found.f_blocks), free: bytes(found.f_bavail) })
    }
}

/// Finds out whether a folder can be written to, by a file without a name that is gone at once. Blocks. A file system that
/// has no such files is taken to be well.
pub fn check_writable(folder: &Path) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file,
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    std::fs::File::from(file).write_all(&[0; 4096])
}
