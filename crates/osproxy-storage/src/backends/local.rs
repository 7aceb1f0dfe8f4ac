//! Objects as files on a local disk.

#[cfg(test)]
mod pack_tests;
pub(crate) mod packs;
mod preallocated;
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

use tokio::task::JoinHandle;

use crate::{
    Backend, Category, Error, ErrorKind, Key, ListedObject, Multipart, ObjectList, ObjectReader,
    ObjectWriter, Packs, Result, SizeHint,
};

pub use probe::ProbeResult;

const NAME: &str = "local";

/// File under the root that contains the store id.
const ID_FILE: &str = "store-id";

/// Folder under the root for unpublished objects.
const TEMPORARY_FOLDER: &str = ".tmp";

const FOLDER_MODE: Mode = Mode::from_bits_retain(0o700);
const FILE_MODE: Mode = Mode::from_bits_retain(0o600);

/// Objects as files: `<root>/<folder>/<object name>`.
///
/// A writer writes an object to a temporary file, syncs and renames the file, and then syncs its
/// folder. So after a power failure at any moment, the object is whole or absent, unless the store
/// was opened without `fsync`. Only one process at a time can open a root for writing. That process
/// locks the root, and removes temporary files that a crash left.
#[derive(Clone)]
pub struct Local {
    root: Arc<Root>,
    packs: Arc<packs::PackFiles>,
}

struct Root {
    folder: OwnedFd,
    fsync: bool,
    id: String,
    /// Number in the next temporary name. Names need to be unique only within this process, because
    /// the lock keeps other processes out.
    next_temporary: AtomicU64,
    /// Bytes of disk space that objects must leave free.
    min_free_space: AtomicU64,
    preallocated_files: preallocated::FileStates,
    /// Folders that were found or created under the root. With `fsync`, their creation was synced
    /// to disk.
    durable_folders: Mutex<HashSet<String>>,
    /// Lock of the root, held until the backend is dropped; `None` if the store was opened to read.
    lock: Option<OwnedFd>,
}

impl Local {
    /// Opens the store under `root`; creates the folder if it is missing. Without `fsync`, a power
    /// failure may lose or truncate published objects. If only the process crashes, no published
    /// objects are lost, with or without `fsync`.
    ///
    /// Fails if the root is already open for writing, in this process or in another one.
    pub async fn open(root: &Path, fsync: bool) -> Result<Self> {
        let root = root.to_owned();
        blocking("open root", move || {
            std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE.bits()).create(&root)?;
            let folder = open_folder(CWD, &root)?;
            make_folder(&folder, TEMPORARY_FOLDER)?;
            let temporary = open_folder(&folder, TEMPORARY_FOLDER)?;
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
            let id = load_or_create_store_id(&folder, &temporary)?;
            let folders = object_folders(&folder)?;
            if fsync {
                sync_with_parents(&root)?;
            }
            let durable_folders = Mutex::new(folders);
            let root = Root { lock: Some(lock), durable_folders, ..Root::new(folder, fsync, id) };
            Ok(Self { root: Arc::new(root), packs: Arc::new(packs::PackFiles::to_read()) })
        })
        .await
    }

    /// Opens the store under `root` to read objects, even while another process has the root open
    /// for writing. Creates nothing: fails if `root` is not a store yet. In the opened store, all
    /// operations that write fail.
    pub async fn open_to_read(root: &Path) -> Result<Self> {
        let root = root.to_owned();
        blocking("open root", move || {
            let folder = open_folder(CWD, &root)?;
            let id = read_store_id(&folder)?;
            let id =
                id.ok_or_else(|| std::io::Error::other(format!("not a store: file {ID_FILE} is missing")))?;
            let root = Arc::new(Root::new(folder, false, id));
            Ok(Self { root, packs: Arc::new(packs::PackFiles::to_read()) })
        })
        .await
    }

    /// Keeps `bytes` bytes of disk space free for other programs, such as the database. Writes that
    /// need this space fail with `Full`. Each concurrent write may still use some MiB of this
    /// space, because the free space is checked only at intervals.
    pub fn set_min_free_space(&self, bytes: u64) {
        self.root.min_free_space.store(bytes, Ordering::Relaxed);
    }

    /// The store id: eight random hexadecimal digits. It is kept in a file under the root, so it
    /// stays the same when the root is moved.
    pub fn id(&self) -> &str {
        &self.root.id
    }

    fn reader(&self, file: Arc<OwnedFd>, range: Range<u64>) -> ObjectReader {
        // The purpose of opening a store to read is to check the bytes on the disk. So the readers
        // of such a store bypass the page cache.
        let open = if self.root.lock.is_none() { reader::Reader::uncached } else { reader::Reader::new };
        Box::pin(open(file, range))
    }
}

#[async_trait]
impl Backend for Local {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn create(&self, key: &Key, size: SizeHint) -> Result<Box<dyn ObjectWriter>> {
        self.root.check_writable("create")?;
        let number = self.root.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{TEMPORARY_FOLDER}/{}.{number}", key.name());
        Ok(Box::new(writer::Writer::new(self.root.clone(), key.clone(), temporary, size.at_most())))
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<ObjectReader> {
        if let Some(location) = key.pack_location() {
            let (pack, range) = self.open_packed(key, location, range).await?;
            return Ok(self.reader(pack, range));
        }
        let file = match self.root.open_cached(key) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Err(Error::new(ErrorKind::NotFound, NAME, "open")),
            // The path is not in the dentry cache, or the kernel does not support `RESOLVE_CACHED`.
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
        Ok(self.reader(Arc::new(file), range))
    }

    async fn size(&self, key: &Key) -> Result<u64> {
        if let Some(location) = key.pack_location() {
            return self.packed_size(key, location).await;
        }
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
        self.root.check_writable("delete")?;
        // A packed object is dead space as soon as its row is gone.
        let keys: Vec<_> = keys.iter().filter(|key| key.pack_location().is_none()).cloned().collect();
        if keys.is_empty() {
            return Ok(());
        }
        let root = self.root.clone();
        blocking("delete", move || {
            for key in &keys {
                match rustix::fs::unlinkat(&root.folder, key.as_str(), AtFlags::empty()) {
                    // A missing file may have been removed just before a crash, but not durably. So
                    // the folder is synced below in this case too.
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

    fn packs(&self) -> Option<&dyn Packs> {
        Some(self).filter(|store| store.packs.takes_records()).map(|store| store as &dyn Packs)
    }

    async fn list(&self) -> Result<ObjectList> {
        let to_object = |file: &walk::Entry<'_>| {
            if file.name.starts_with('.') || file.folder == packs::FOLDER {
                return Ok(None);
            }
            let name = || format!("{}/{}", file.folder, file.name);
            Ok(file.size()?.map(|size| ListedObject { name: name(), size }))
        };
        Ok(Box::pin(walk::list(self.root.clone(), "list", to_object)))
    }
}

impl Root {
    fn new(folder: OwnedFd, fsync: bool, id: String) -> Self {
        Self {
            folder,
            fsync,
            id,
            next_temporary: AtomicU64::new(0),
            min_free_space: AtomicU64::new(0),
            preallocated_files: preallocated::FileStates::default(),
            durable_folders: Mutex::default(),
            lock: None,
        }
    }

    /// Fails with `NOSPC` if less space than [`Local::set_min_free_space`] demands would be free
    /// after writing `bytes` bytes.
    fn check_free_space(&self, bytes: u64) -> rustix::io::Result<()> {
        let min_free_space = self.min_free_space.load(Ordering::Relaxed);
        if min_free_space > 0 && free_bytes(&self.folder)? < min_free_space.saturating_add(bytes) {
            return Err(Errno::NOSPC);
        }
        Ok(())
    }

    /// Fails with `ROFS` if the store was opened to read.
    fn check_writable(&self, operation: &'static str) -> Result<()> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(Error::io(NAME, operation, Errno::ROFS)),
        }
    }

    fn open(&self, key: &Key) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.folder, key.as_str(), flags, Mode::empty())
    }

    /// Opens a file without blocking on the disk; fails if the disk would have to be read.
    fn open_cached(&self, key: &Key) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat2(
            &self.folder,
            key.as_str(),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::CACHED,
        )
    }

    /// Runs `work`, which creates a file in `folder`. Creates the folder first if it is missing.
    /// With `fsync`, syncs the root so that the new folder survives a power failure.
    fn with_folder<T>(
        &self,
        folder: &str,
        work: impl Fn() -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        let durable_folders = || self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner);
        let create_folder = || {
            make_folder(&self.folder, folder)?;
            if self.fsync {
                // Sync even if another thread created the folder: that thread may not have synced
                // it yet.
                rustix::fs::fsync(&self.folder)?;
            }
            durable_folders().insert(folder.to_owned());
            Ok(())
        };
        let is_durable = durable_folders().contains(folder);
        if !is_durable {
            create_folder()?;
        }
        match work() {
            // The folder was removed while it was empty.
            Err(Errno::NOENT) if is_durable => {
                create_folder()?;
                work()
            }
            outcome => outcome,
        }
    }

    /// Renames a finished file to the name of its object. Fails with `EXIST`, and changes nothing,
    /// if an object with this name exists.
    fn publish(&self, file: &str, key: &Key) -> rustix::io::Result<()> {
        let (folder, name) = (&self.folder, key.as_str());
        self.with_folder(key.folder(), || {
            match rustix::fs::renameat_with(folder, file, folder, name, RenameFlags::NOREPLACE) {
                // The file system does not support `NOREPLACE`, so check before the rename. This is
                // not atomic: a second writer in this process could replace the object, which
                // `Backend` allows. The lock keeps other processes out.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Err(Errno::NOENT) => rustix::fs::renameat(folder, file, folder, name),
                        exists => exists.and(Err(Errno::EXIST)),
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

/// Bytes that this process can still write to the disk.
fn free_bytes(folder: &OwnedFd) -> rustix::io::Result<u64> {
    let stat = rustix::fs::fstatvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn open_folder(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// Whether this is the name of a category folder or of one of its shard folders.
fn is_object_folder(folder: &str) -> bool {
    Category::ALL.iter().any(|category| {
        let suffix = folder.strip_prefix(category.as_str());
        suffix.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with('-'))
    })
}

/// The category and shard folders that exist under a root.
fn object_folders(root: &OwnedFd) -> std::io::Result<HashSet<String>> {
    let mut folders = HashSet::new();
    for entry in Dir::read_from(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_object_folder(&name) {
            folders.insert(name);
        }
    }
    Ok(folders)
}

/// Reads the store id. If there is none, creates it atomically.
fn load_or_create_store_id(root: &OwnedFd, temporary: &OwnedFd) -> std::io::Result<String> {
    if let Some(id) = read_store_id(root)? {
        return Ok(id);
    }
    let mut id = [0; 4];
    getrandom::fill(&mut id).map_err(std::io::Error::other)?;
    let id = format!("{:08x}", u32::from_be_bytes(id));
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(temporary, ID_FILE, flags, FILE_MODE)?);
    writeln!(file, "{id}")?;
    file.sync_all()?;
    rustix::fs::renameat(temporary, ID_FILE, root, ID_FILE)?;
    Ok(id)
}

/// The store id, if the root has one. Fails if the file does not contain a valid id.
fn read_store_id(root: &OwnedFd) -> std::io::Result<Option<String>> {
    let text = match rustix::fs::openat(root, ID_FILE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => std::io::read_to_string(File::from(file))?,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let id = text.trim();
    if id.len() != 8 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(std::io::Error::other(format!("the file {ID_FILE} does not contain a store id")));
    }
    Ok(Some(id.to_owned()))
}

/// Syncs a folder and its two closest ancestors, which may have been created together with it.
fn sync_with_parents(root: &Path) -> std::io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "on a thread for blocking calls")]
    let root = std::fs::canonicalize(root)?;
    for folder in root.ancestors().take(3) {
        rustix::fs::fsync(open_folder(CWD, folder)?)?;
    }
    Ok(())
}

/// Creates a folder unless it exists.
fn make_folder(at: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(at, name, FOLDER_MODE) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Runs `work`, which may block on the disk, on a thread for blocking calls.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    job_result(operation, tokio::task::spawn_blocking(work).await)
}

/// What awaiting a blocking job of tokio returns.
type JobOutput<T> = <JoinHandle<std::io::Result<T>> as Future>::Output;

/// The result of a blocking job. Fails if the job panicked or the runtime shut down.
fn job_result<T>(operation: &'static str, joined: JobOutput<T>) -> Result<T> {
    joined
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(|error| Error::io(NAME, operation, error))
}
