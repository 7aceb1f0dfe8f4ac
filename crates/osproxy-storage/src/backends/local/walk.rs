//! Lists the files under a root in batches, because the list of a folder may not fit into memory.

use std::{os::fd::OwnedFd, sync::Arc};

use futures_util::{Stream, TryStreamExt, stream};
use rustix::{
    fs::{AtFlags, Dir, FileType},
    io::Errno,
};

use super::{Root, blocking, open_folder};
use crate::{Key, Result};

/// Directory entries per batch.
const BATCH: usize = 1000;

/// A file or folder in a folder that can hold objects. The name of the entry may begin with a dot.
pub(super) struct Entry<'a> {
    pub(super) folder: &'a str,
    pub(super) name: &'a str,
    handle: &'a OwnedFd,
}

impl Entry<'_> {
    /// Size in bytes. `None` if the file was removed meanwhile or is a folder.
    pub(super) fn size(&self) -> std::io::Result<Option<u64>> {
        match rustix::fs::statat(self.handle, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(None),
            Ok(stat) => Ok(Some(u64::try_from(stat.st_size).unwrap_or(0))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Calls `pick` for each entry of the folders that can hold objects, and streams the results that
/// are `Some`. Folders that can hold objects are those of osproxy and those in which the Go program
/// collects parts: all folders whose names are valid in a key.
pub(super) fn list<T: Send + 'static>(
    root: Arc<Root>,
    operation: &'static str,
    pick: fn(&Entry<'_>) -> std::io::Result<Option<T>>,
) -> impl Stream<Item = Result<T>> + Send {
    let batches = stream::try_unfold(None, move |walk: Option<Walk>| {
        let root = root.clone();
        async move {
            let step = blocking(operation, move || {
                let mut walk = walk.map_or_else(|| Walk::new(root), Ok)?;
                Ok(walk.batch(pick)?.map(|batch| (batch, walk)))
            });
            let step = step.await?;
            Ok(step.map(|(batch, walk)| (stream::iter(batch.into_iter().map(Ok)), Some(walk))))
        }
    });
    batches.try_flatten()
}

struct Walk {
    root: Arc<Root>,
    folders: Dir,
    open: Option<Folder>,
}

struct Folder {
    name: String,
    handle: OwnedFd,
    files: Dir,
}

impl Walk {
    fn new(root: Arc<Root>) -> std::io::Result<Self> {
        Ok(Self { folders: Dir::read_from(&root.folder)?, root, open: None })
    }

    /// Returns the results for the next batch of entries; `None` at the end.
    fn batch<T>(
        &mut self,
        pick: fn(&Entry<'_>) -> std::io::Result<Option<T>>,
    ) -> std::io::Result<Option<Vec<T>>> {
        let mut picked = Vec::new();
        let mut scanned = 0;
        while scanned < BATCH {
            let Some(folder) = &mut self.open else {
                match self.next_folder()? {
                    Some(folder) => self.open = Some(folder),
                    None if scanned == 0 => return Ok(None),
                    None => break,
                }
                continue;
            };
            let Some(entry) = folder.files.read() else {
                self.open = None;
                // Count folders too: even if many folders are empty, a batch must not occupy its
                // thread for long.
                scanned += 1;
                continue;
            };
            scanned += 1;
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                picked.extend(pick(&Entry { folder: &folder.name, name: &name, handle: &folder.handle })?);
            }
        }
        Ok(Some(picked))
    }

    fn next_folder(&mut self) -> std::io::Result<Option<Folder>> {
        while let Some(entry) = self.folders.read() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if Key::parse(&format!("{name}/x")).is_err() {
                continue;
            }
            match open_folder(&self.root.folder, &name) {
                Ok(handle) => {
                    let files = Dir::read_from(&handle)?;
                    return Ok(Some(Folder { name, handle, files }));
                }
                // Not a folder, such as the file with the store id; or removed in the meantime.
                Err(Errno::NOTDIR | Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}
