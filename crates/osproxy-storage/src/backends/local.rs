mod placed;
mod probe;
mod reader;
#[cfg(test)]
mod tests;
mod walk;
mod writer;

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    io::Write,
    ops::Range,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags},
    io::Errno,
};

use crate::{
    Backend, Category, Error, ErrorKind, Key, Listed, Multipart, ObjectList, ObjectReader, ObjectWriter,
    Result, SizeHint,
};

pub use probe::Probed;

const NAME: &str = "local";

/// File under the root that says which store it is.
const ID: &str = "store-id";

/// Folder under the root for objects that are not published yet.
const TEMPORARY: &str = ".tmp";

const FOLDER_MODE: Mode = Mode::from_bits_retain(0o700);
const FILE_MODE: Mode = Mode::from_bits_retain(0o600);

/// Objects as files: `<root>/<folder>/<object name>`.
///
/// An object is written under a temporary name, synced, renamed and its folder synced, so that it is whole or
/// absent whenever the power goes. One process owns a root: it holds a lock on it, and clears the temporary
/// names that a crash left when it opens it.
#[derive(Clone)]
pub struct Local {
    root: Arc<Root>,
}

struct Root {
    folder: OwnedFd,
    fsync: bool,
    id: String,
    /// Makes temporary names unique within this process; the lock makes them unique among processes.
    next_temporary: AtomicU64,
    /// How many bytes of the disk are not for objects.
    keep_free: AtomicU64,
    slots: placed::Slots,
    /// Folders that a power failure does not take.
    durable_folders: Mutex<HashSet<String>>,
    /// Held as long as the backend lives; none where objects are only read.
    lock: Option<OwnedFd>,
}

impl Local {
    /// Opens the store under `root`, which is created when missing. With `fsync` off an object that was
    /// published may be lost or short after a power failure; a crash of the process alone loses nothing either way.
    ///
    /// Fails when another process has the same root open.
    pub async fn open(root: &Path, fsync: bool) -> Result<Self> {
        let root = root.to_owned();
        blocking("open root", move || {
            std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE.bits()).create(&root)?;
            let folder = open_folder(CWD, &root)?;
            make_folder(&folder, TEMPORARY)?;
            let temporary = open_folder(&folder, TEMPORARY)?;
            let lock = rustix::fs::openat(
                &temporary,
                "lock",
                OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC,
                FILE_MODE,
            )?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            for entry in Dir::read_from(&temporary)? {
                let entry = entry?;
                let name = entry.file_name();
                if ![c".", c"..", c"lock"].contains(&name) {
                    rustix::fs::unlinkat(&temporary, name, AtFlags::empty())?;
                }
            }
            let id = store_id(&folder, &temporary)?;
            let folders = object_folders(&folder)?;
            if fsync {
                sync_with_parents(&root)?;
            }
            let durable_folders = Mutex::new(folders);
            let root = Root { lock: Some(lock), durable_folders, ..Root::new(folder, fsync, id) };
            Ok(Self { root: Arc::new(root) })
        })
        .await
    }

    /// Opens the store under `root` to read objects, beside the process that owns it, if there is one. Makes nothing:
    /// fails when the root is none yet. Whatever would change an object fails.
    pub async fn open_to_read(root: &Path) -> Result<Self> {
        let root = root.to_owned();
        blocking("open root", move || {
            let folder = open_folder(CWD, &root)?;
            let id = known_id(&folder)?;
            let id = id.ok_or_else(|| std::io::Error::other(format!("there is no file {ID} in it")))?;
            Ok(Self { root: Arc::new(Root::new(folder, false, id)) })
        })
        .await
    }

    /// Leaves so many bytes of the disk to others, the database for one: what would take them is refused as on a full disk.
    /// Several that are written at the same time may go beyond that by some MiB each.
    pub fn keep_free(&self, bytes: u64) {
        self.root.keep_free.store(bytes, Ordering::Relaxed);
    }

    /// Eight digits that no other store has, made with the root and kept in it: they go with the objects, wherever
    /// those are moved.
    pub fn id(&self) -> &str {
        &self.root.id
    }
}

#[async_trait]
impl Backend for Local {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn create(&self, key: &Key, size: SizeHint) -> Result<Box<dyn ObjectWriter>> {
        self.root.owned("create")?;
        let number = self.root.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{TEMPORARY}/{}.{number}", key.name());
        Ok(Box::new(writer::Writer::new(self.root.clone(), key.clone(), temporary, size.at_most())))
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<ObjectReader> {
        let file = match self.root.open_cached(key) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Err(Error::new(ErrorKind::NotFound, NAME, "open")),
            // The path is not in the directory cache, or the kernel does not know the question.
            Err(_) => {
                let (root, key) = (self.root.clone(), key.clone());
                blocking("open", move || Ok(root.open(&key)?)).await?
            }
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| Error::io(NAME, "open", error))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if range.start > range.end || range.end > size {
            return Err(Error::new(ErrorKind::Truncated, NAME, "open"));
        }
        // Whoever only reads looks for what the disk has lost.
        let open = if self.root.lock.is_none() { reader::Reader::past_cache } else { reader::Reader::new };
        Ok(Box::pin(open(file, range)))
    }

    async fn size(&self, key: &Key) -> Result<u64> {
        let (root, key) = (self.root.clone(), key.clone());
        blocking("size", move || {
            let stat = rustix::fs::statat(&root.folder, key.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                return Err(Errno::NOENT.into());
            }
            Ok(u64::try_from(stat.st_size).unwrap_or(0))
        })
        .await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.root.owned("delete")?;
        let (root, keys) = (self.root.clone(), keys.to_vec());
        blocking("delete", move || {
            for key in &keys {
                match rustix::fs::unlinkat(&root.folder, key.as_str(), AtFlags::empty()) {
                    // One that is gone already may have gone just before a crash, and not be gone on the disk yet.
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let folders: BTreeSet<_> = keys.iter().map(Key::folder).collect();
            for folder in folders {
                match root.sync_folder(folder) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })
        .await
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }

    async fn list(&self) -> Result<ObjectList> {
        let listed = |file: &walk::Entry<'_>| {
            if file.name.starts_with('.') {
                return Ok(None);
            }
            let name = || format!("{}/{}", file.folder, file.name);
            Ok(file.size()?.map(|size| Listed { name: name(), size }))
        };
        Ok(Box::pin(walk::list(self.root.clone(), "list", listed)))
    }
}

impl Root {
    fn new(folder: OwnedFd, fsync: bool, id: String) -> Self {
        Self {
            folder,
            fsync,
            id,
            next_temporary: AtomicU64::new(0),
            keep_free: AtomicU64::new(0),
            slots: placed::Slots::default(),
            durable_folders: Mutex::default(),
            lock: None,
        }
    }

    /// Refuses so many bytes more where they are not to be had.
    fn must_have_room(&self, bytes: u64) -> rustix::io::Result<()> {
        let keep_free = self.keep_free.load(Ordering::Relaxed);
        if keep_free > 0 && free(&self.folder)? < keep_free.saturating_add(bytes) {
            return Err(Errno::NOSPC);
        }
        Ok(())
    }

    /// Refuses changes where this process does not own the root.
    fn owned(&self, operation: &'static str) -> Result<()> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(Error::io(NAME, operation, Errno::ROFS)),
        }
    }

    fn open(&self, key: &Key) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.folder, key.as_str(), flags, Mode::empty())
    }

    /// Opens a file without ever waiting for the disk; fails when that cannot be done.
    fn open_cached(&self, key: &Key) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat2(
            &self.folder,
            key.as_str(),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::CACHED,
        )
    }

    /// Puts a file into a folder by `work`. Makes the folder when it is missing, and sees to it that it stays after a power
    /// failure.
    fn in_folder<T>(&self, folder: &str, work: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
        let folders = || self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            make_folder(&self.folder, folder)?;
            if self.fsync {
                // Who finds the folder made by another waits for the disk all the same.
                rustix::fs::fsync(&self.folder)?;
            }
            folders().insert(folder.to_owned());
            Ok(())
        };
        let is_durable = folders().contains(folder);
        if !is_durable {
            make()?;
        }
        match work() {
            // Somebody has tidied up.
            Err(Errno::NOENT) if is_durable => {
                make()?;
                work()
            }
            done => done,
        }
    }

    /// Gives a finished file the name of its object. `EXIST`: there is an object of this name, which stays as it is.
    fn publish(&self, file: &str, key: &Key) -> rustix::io::Result<()> {
        let (folder, name) = (&self.folder, key.as_str());
        self.in_folder(key.folder(), || {
            match rustix::fs::renameat_with(folder, file, folder, name, RenameFlags::NOREPLACE) {
                // Not every file system can promise that. No other process writes here.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Err(Errno::NOENT) => rustix::fs::renameat(folder, file, folder, name),
                        there => there.and(Err(Errno::EXIST)),
                    }
                }
                renamed => renamed,
            }
        })
    }

    fn sync_folder(&self, folder: &str) -> rustix::io::Result<()> {
        if self.fsync {
            rustix::fs::fsync(open_folder(&self.folder, folder)?)?;
        }
        Ok(())
    }
}

/// How many bytes this process may still write.
fn free(folder: &OwnedFd) -> rustix::io::Result<u64> {
    let system = rustix::fs::fstatvfs(folder)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

fn open_folder(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// Whether this is the name of a category's folder, or of a shard of one.
fn is_of_objects(folder: &str) -> bool {
    Category::ALL.iter().any(|category| {
        let rest = folder.strip_prefix(category.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

/// The folders of objects that a root has.
fn object_folders(root: &OwnedFd) -> std::io::Result<HashSet<String>> {
    let mut found = HashSet::new();
    for entry in Dir::read_from(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_of_objects(&name) {
            found.insert(name);
        }
    }
    Ok(found)
}

/// Reads which store a root is, or makes it one: whole or not at all.
fn store_id(root: &OwnedFd, temporary: &OwnedFd) -> std::io::Result<String> {
    if let Some(id) = known_id(root)? {
        return Ok(id);
    }
    let mut id = [0; 4];
    getrandom::fill(&mut id).map_err(std::io::Error::other)?;
    let id = format!("{:08x}", u32::from_be_bytes(id));
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(temporary, ID, flags, FILE_MODE)?);
    writeln!(file, "{id}")?;
    file.sync_all()?;
    rustix::fs::renameat(temporary, ID, root, ID)?;
    Ok(id)
}

/// Which store a root is, if it was one before.
fn known_id(root: &OwnedFd) -> std::io::Result<Option<String>> {
    let text = match rustix::fs::openat(root, ID, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => std::io::read_to_string(File::from(file))?,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let id = text.trim();
    if id.len() != 8 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(std::io::Error::other(format!("the file {ID} holds no id of a store")));
    }
    Ok(Some(id.to_owned()))
}

/// Syncs a folder and those above it that may have been created with it.
fn sync_with_parents(root: &Path) -> std::io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "on a thread for blocking calls")]
    let root = std::fs::canonicalize(root)?;
    for folder in root.ancestors().take(3) {
        rustix::fs::fsync(open_folder(CWD, folder)?)?;
    }
    Ok(())
}

/// Creates a folder; one that exists is fine.
fn make_folder(at: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(at, name, FOLDER_MODE) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Runs system calls that may wait for the disk where they hold up nobody.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    finished(operation, tokio::task::spawn_blocking(work).await)
}

/// What became of blocking work: its own answer, or that it panicked or was cancelled by the runtime's end.
fn finished<T>(
    operation: &'static str,
    joined: std::result::Result<std::io::Result<T>, tokio::task::JoinError>,
) -> Result<T> {
    joined
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(|error| Error::io(NAME, operation, error))
}
