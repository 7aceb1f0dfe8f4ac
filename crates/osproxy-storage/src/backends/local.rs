mod placed;
mod probe;
mod reader;
mod writer;

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write,
    ops::Range,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags},
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

const FOLDER_MODE: Mode = Mode::from_bits_retain(0o750);
const FILE_MODE: Mode = Mode::from_bits_retain(0o640);

/// Objects as files: `<root>/<category>/<object name>`.
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
    slots: placed::Slots,
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
            #[expect(clippy::disallowed_methods, reason = "on a thread for blocking calls")]
            std::fs::create_dir_all(&root)?;
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
            for category in Category::ALL {
                make_folder(&folder, category.as_str())?;
            }
            let id = store_id(&folder, &temporary)?;
            if fsync {
                sync_with_parents(&root)?;
            }
            let next_temporary = AtomicU64::new(0);
            let slots = placed::Slots::default();
            Ok(Self { root: Arc::new(Root { folder, fsync, id, next_temporary, slots, lock: Some(lock) }) })
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
            let (next_temporary, slots) = (AtomicU64::new(0), placed::Slots::default());
            Ok(Self { root: Arc::new(Root { folder, fsync: false, id, next_temporary, slots, lock: None }) })
        })
        .await
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
        let root = self.root.clone();
        let listed = stream::iter(Category::ALL).then(move |category| {
            let root = root.clone();
            blocking("list", move || root.files(category.as_str()))
        });
        Ok(Box::pin(listed.map_ok(|files| stream::iter(files.into_iter().map(Ok))).try_flatten()))
    }
}

impl Root {
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

    fn files(&self, folder: &str) -> std::io::Result<Vec<Listed>> {
        let handle = open_folder(&self.folder, folder)?;
        let mut files = Vec::new();
        for (name, kind) in names(&handle)? {
            match rustix::fs::statat(&handle, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if kind != FileType::Directory => {
                    let size = u64::try_from(stat.st_size).unwrap_or(0);
                    files.push(Listed { name: format!("{folder}/{name}"), size });
                }
                // Gone since it was named.
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(files)
    }

    fn sync_folder(&self, folder: &str) -> rustix::io::Result<()> {
        if self.fsync {
            rustix::fs::fsync(open_folder(&self.folder, folder)?)?;
        }
        Ok(())
    }
}

fn open_folder(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
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

/// What a folder holds, but for hidden names.
fn names(folder: &OwnedFd) -> std::io::Result<Vec<(String, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if !name.starts_with('.') {
            names.push((name.into_owned(), entry.file_type()));
        }
    }
    Ok(names)
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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn files(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        #[expect(clippy::disallowed_methods, reason = "a test may block")]
        for folder in std::fs::read_dir(root).unwrap() {
            let folder = folder.unwrap().path();
            if folder.ends_with(ID) {
                continue;
            }
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                found.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
        found.retain(|file| file != ".tmp/lock");
        found
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        for fsync in [true, false] {
            let root = tempfile::tempdir().unwrap();
            let store = Local::open(root.path(), fsync).await.unwrap();
            crate::contract::run(&store).await;
            assert_eq!(files(root.path()), [""; 0], "the contract suite left files");
        }
    }

    #[tokio::test]
    async fn what_a_crash_left_unpublished_is_cleared_at_the_next_start() {
        let root = tempfile::tempdir().unwrap();
        let key = Key::parse("unknown/1.bin").unwrap();
        let store = Local::open(root.path(), true).await.unwrap();
        let mut writer = store.create(&key, SizeHint::Unknown).await.unwrap();
        writer.write(Bytes::from_static(b"half")).await.unwrap();
        writer.finish().await.unwrap();
        assert_eq!(files(root.path()), [".tmp/1.bin.0"]);

        // A crash runs no destructors; the lock goes with the process.
        std::mem::forget(writer);
        rustix::fs::flock(store.root.lock.as_ref().unwrap(), FlockOperation::Unlock).unwrap();

        Local::open(root.path(), true).await.unwrap();
        assert_eq!(files(root.path()), [""; 0]);
    }

    #[tokio::test]
    async fn a_root_is_the_same_store_wherever_it_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here"), folder.path().join("there"));
        let id = Local::open(&here, true).await.unwrap().id().to_owned();
        assert_eq!(id.len(), 8);
        assert_ne!(Local::open(&there, true).await.unwrap().id(), id);
        #[expect(clippy::disallowed_methods, reason = "a test may block")]
        let (moved, damaged) = (folder.path().join("moved"), |root: &Path| {
            std::fs::write(root.join(ID), "damaged").unwrap();
        });
        #[expect(clippy::disallowed_methods, reason = "a test may block")]
        std::fs::rename(&here, &moved).unwrap();
        assert_eq!(Local::open(&moved, true).await.unwrap().id(), id);
        // Another id would make every object one of a stranger.
        damaged(&moved);
        assert!(Local::open(&moved, true).await.is_err());
    }

    #[tokio::test]
    async fn a_probe_leaves_a_root_as_it_was_whoever_has_it_open() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a/root");
        let probed = Local::probe(&root).await.unwrap();
        assert!(!probed.exists && probed.free > 0);
        assert_eq!(files(folder.path()), [""; 0]);

        #[expect(clippy::disallowed_methods, reason = "a test may block")]
        std::fs::create_dir_all(&root).unwrap();
        assert!(Local::probe(&root).await.unwrap().exists);
        assert_eq!(files(&root), [""; 0]);

        let _owner = Local::open(&root, true).await.unwrap();
        assert!(Local::probe(&root).await.unwrap().exists);
        assert_eq!(files(&root), [""; 0]);

        // A folder of objects that is none: nothing that is moved there arrives.
        #[expect(clippy::disallowed_methods, reason = "a test may block")]
        std::fs::remove_dir_all(root.join("video")).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test may block")]
        std::fs::write(root.join("video"), "no folder").unwrap();
        let error = Local::probe(&root).await.unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("video"), "{error:?}");
        #[expect(clippy::disallowed_methods, reason = "a test may block")]
        std::fs::remove_file(root.join("video")).unwrap();
        assert_eq!(files(&root), [""; 0]);
    }

    #[tokio::test]
    async fn a_root_has_one_owner() {
        let root = tempfile::tempdir().unwrap();
        let _owner = Local::open(root.path(), true).await.unwrap();
        assert!(Local::open(root.path(), true).await.is_err());
    }

    #[tokio::test]
    async fn who_only_reads_needs_no_lock_and_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert!(Local::open_to_read(root.path()).await.is_err(), "nothing was ever stored there");
        assert_eq!(files(root.path()), [""; 0]);
        let owner = Local::open(root.path(), true).await.unwrap();
        let key = Key::parse("unknown/1.bin").unwrap();
        let mut writer = owner.create(&key, SizeHint::Unknown).await.unwrap();
        writer.write(Bytes::from_static(b"whole")).await.unwrap();
        writer.finish().await.unwrap();
        writer.publish().await.unwrap();
        let mut half = owner.create(&key, SizeHint::Unknown).await.unwrap();
        half.write(Bytes::from_static(b"half")).await.unwrap();
        half.finish().await.unwrap();
        let before = files(root.path());

        let reader = Local::open_to_read(root.path()).await.unwrap();
        assert_eq!((reader.id(), reader.size(&key).await.unwrap()), (owner.id(), 5));
        let bytes: Vec<_> = reader.open(&key, 1..5).await.unwrap().try_collect().await.unwrap();
        assert_eq!(bytes.concat(), b"hole");
        assert!(reader.create(&key, SizeHint::Unknown).await.is_err());
        assert!(reader.delete(std::slice::from_ref(&key)).await.is_err());
        let parts = reader.multipart().unwrap();
        assert!(parts.begin(&key, Some(crate::Shape { size: 5, part_size: 1024 })).await.is_err());
        assert!(parts.create_part(&key, "1024", 1, 5).await.is_err());
        assert!(parts.complete(&key, "1024", &[]).await.is_err());
        assert!(parts.abort(&key, "1024").await.is_err());
        assert_eq!(files(root.path()), before, "what is being written is there too");
    }

    #[tokio::test]
    async fn a_file_cut_behind_our_back_is_an_error_and_never_a_short_read() {
        let root = tempfile::tempdir().unwrap();
        let store = Local::open(root.path(), false).await.unwrap();
        let key = Key::parse("unknown/1.bin").unwrap();
        let mut writer = store.create(&key, SizeHint::Unknown).await.unwrap();
        writer.write(Bytes::from(vec![1; 300_000])).await.unwrap();
        writer.finish().await.unwrap();
        writer.publish().await.unwrap();

        let mut reader = store.open(&key, 0..300_000).await.unwrap();
        let path = root.path().join(key.as_str());
        let file = rustix::fs::open(&path, OFlags::WRONLY, Mode::empty()).unwrap();
        rustix::fs::ftruncate(&file, 100_000).unwrap();

        let mut seen = 0;
        let error = loop {
            match futures_util::StreamExt::next(&mut reader).await.unwrap() {
                Ok(bytes) => seen += bytes.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(seen, 100_000);
        assert_eq!(error.kind, ErrorKind::Truncated);
        let reopened = store.open(&key, 0..300_000).await;
        assert_eq!(reopened.err().unwrap().kind, ErrorKind::Truncated);
    }
}
