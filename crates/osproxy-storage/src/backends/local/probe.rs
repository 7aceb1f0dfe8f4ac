//! Checks that objects can be written under a root, for `osproxy doctor`.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags},
    io::Errno,
};

use super::{
    FILE_MODE, FOLDER_MODE, Local, TEMPORARY_FOLDER, blocking, free_bytes, is_object_folder, open_folder,
    read_store_id,
};
use crate::Result;

/// Result of [`Local::probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// Whether the root exists.
    pub exists: bool,
    /// Bytes that this process can still write to the disk.
    pub free: u64,
}

/// Content of the file that the probe writes. It fills at least one block of common file systems,
/// so that the file system must allocate space.
const CONTENT: [u8; 4096] = [0x5a; 4096];

impl Local {
    /// Checks that a store could write objects under `root`. If `root` is missing, checks that it
    /// could be created. Takes no lock, so another process can open and use the root at the same
    /// time. Leaves nothing behind.
    pub async fn probe(root: &Path) -> Result<ProbeResult> {
        let root = root.to_owned();
        blocking("probe", move || {
            let folder = match open_folder(CWD, &root) {
                Ok(folder) => folder,
                Err(Errno::NOENT) => {
                    return Ok(ProbeResult { exists: false, free: probe_missing_root(&root)? });
                }
                Err(error) => return Err(error.into()),
            };
            read_store_id(&folder)?;
            let temporary_folder = match open_folder(&folder, TEMPORARY_FOLDER) {
                Ok(temporary) => temporary,
                // osproxy has never opened this root.
                Err(Errno::NOENT) => folder.try_clone()?,
                Err(error) => return Err(with_folder_name(TEMPORARY_FOLDER, error)),
            };
            write_and_move(&folder, temporary_folder)?;
            Ok(ProbeResult { exists: true, free: free_bytes(&folder)? })
        })
        .await
    }
}

/// Creates and removes a folder, because new objects may need a folder. Then writes a file, moves
/// it through all category and shard folders, and reads it in each of them.
fn write_and_move(root: &OwnedFd, temporary_folder: OwnedFd) -> io::Result<()> {
    let name = random_name()?;
    create_and_remove_folder(root)?;
    // The file may be in the root itself, if there is no temporary folder. So its name is hidden.
    let hidden = format!(".{name}");
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&temporary_folder, hidden.as_str(), flags, FILE_MODE);
    let mut file = File::from(file.map_err(|error| with_folder_name(TEMPORARY_FOLDER, error))?);
    let mut probe_file = TemporaryFile { folder: temporary_folder, name: hidden };
    file.write_all(&CONTENT)?;
    file.sync_all()?;
    for entry in Dir::read_from(root)? {
        let entry = entry?;
        let category = entry.file_name().to_string_lossy();
        if !is_object_folder(&category) {
            continue;
        }
        let folder = open_folder(root, &*category).map_err(|error| with_folder_name(&category, error))?;
        let renamed =
            rustix::fs::renameat(&probe_file.folder, probe_file.name.as_str(), &folder, name.as_str());
        renamed.map_err(|error| with_folder_name(&category, error))?;
        probe_file = TemporaryFile { folder, name: name.clone() };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&probe_file.folder, name.as_str(), flags, Mode::empty());
        let mut read = Vec::new();
        File::from(file.map_err(|error| with_folder_name(&category, error))?).read_to_end(&mut read)?;
        if read != CONTENT {
            return Err(io::Error::other(format!(
                "{category}: the bytes read differ from the bytes written"
            )));
        }
    }
    Ok(())
}

fn create_and_remove_folder(root: &OwnedFd) -> io::Result<()> {
    let name = format!(".{}", random_name()?);
    rustix::fs::mkdirat(root, name.as_str(), FOLDER_MODE)?;
    Ok(rustix::fs::unlinkat(root, name.as_str(), AtFlags::REMOVEDIR)?)
}

/// Creates and removes a folder in the closest existing ancestor of the missing root. Returns the
/// free bytes there.
fn probe_missing_root(root: &Path) -> io::Result<u64> {
    let root = std::path::absolute(root)?;
    for parent in root.ancestors().skip(1) {
        let folder = match open_folder(CWD, parent) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(with_folder_name(&parent.display().to_string(), error)),
        };
        create_and_remove_folder(&folder)
            .map_err(|error| with_folder_name(&parent.display().to_string(), error))?;
        return Ok(free_bytes(&folder)?);
    }
    Err(Errno::NOENT.into())
}

/// A name that no object has.
fn random_name() -> io::Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(format!("doctor-{}", hex::encode(random)))
}

/// Prefixes an error with the name of the folder.
fn with_folder_name(folder: &str, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    // Callers would take `NotFound` for a missing object, so replace this kind.
    let kind = if error.kind() == io::ErrorKind::NotFound { io::ErrorKind::Other } else { error.kind() };
    io::Error::new(kind, format!("{folder}: {error}"))
}

/// A file that is removed on drop.
struct TemporaryFile {
    folder: OwnedFd,
    name: String,
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // Ignore errors. If the file was moved to another folder, it is no longer in this one.
        // Otherwise the removal should succeed, because the folder allowed the creation of the
        // file.
        let _ = rustix::fs::unlinkat(&self.folder, self.name.as_str(), AtFlags::empty());
    }
}
