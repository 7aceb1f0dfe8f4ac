//! Multipart uploads into preallocated files: each part is written at its offset, and completing
//! the upload renames the file.
//!
//! A preallocated file is the hidden file `<folder>/.<name>.<upload id>`. If the size of the object
//! is known, the file has this size, and the upload id is the part size. Otherwise the file grows
//! with its parts, and the upload id is the part size and `+`. So key and part size are enough to
//! find the file without listing the folder.

use std::{
    cmp::Ordering,
    collections::HashMap,
    ops::Range,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak},
};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use rustix::{
    fs::{AtFlags, FallocateFlags, OFlags},
    io::Errno,
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{FILE_MODE, Local, NAME, Root, blocking, walk, writer};
use crate::{
    Error, ErrorKind, Key, ListedUpload, Multipart, ObjectReader, ObjectWriter, PartLayout, Result,
    UploadList,
};

/// Number of preallocated files with a state, above which unused states are removed.
const MAX_IDLE_FILES: usize = 256;

/// The byte range of a part in a preallocated file. Only the owner of this value may write to the
/// range.
pub(super) struct Slot {
    pub(super) path: String,
    pub(super) offset: u64,
    pub(super) size: u64,
    /// Whether the file grows with its parts. If not, its space may be reserved.
    pub(super) grows: bool,
    pub(super) file: Arc<FileState>,
    _lock: OwnedMutexGuard<()>,
}

/// The state of a preallocated file that has writers.
#[derive(Default)]
pub(super) struct FileState {
    is_completed: RwLock<bool>,
    /// One lock for each slot. When a writer is dropped, its final batch may still be in progress.
    /// The lock prevents this batch from overwriting bytes of the next writer of the slot.
    slots: Mutex<HashMap<u32, Weak<AsyncMutex<()>>>>,
}

impl FileState {
    /// Keeps the upload from being completed. Hold this while writing to a slot. Fails if the
    /// upload is completed: the file is an object then, which must not change.
    pub(super) fn lock_incomplete(&self) -> rustix::io::Result<RwLockReadGuard<'_, bool>> {
        let is_completed = self.is_completed.read().unwrap_or_else(PoisonError::into_inner);
        if *is_completed { Err(Errno::NOENT) } else { Ok(is_completed) }
    }

    fn slot(&self, number: u32) -> Arc<AsyncMutex<()>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        upgrade_or_create(slots.entry(number).or_default())
    }
}

/// The states of the preallocated files, by path.
#[derive(Default)]
pub(super) struct FileStates(Mutex<HashMap<String, Weak<FileState>>>);

impl FileStates {
    fn of(&self, path: &str) -> Arc<FileState> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() > MAX_IDLE_FILES {
            files.retain(|_, file| file.strong_count() > 0);
        }
        upgrade_or_create(files.entry(path.to_owned()).or_default())
    }
}

fn upgrade_or_create<T: Default>(entry: &mut Weak<T>) -> Arc<T> {
    entry.upgrade().unwrap_or_else(|| {
        let created = Arc::default();
        *entry = Arc::downgrade(&created);
        created
    })
}

/// Ends the id of an upload whose file grows with its parts.
const GROWS: char = '+';

/// Returns the part size of an upload, and whether its file grows with its parts.
fn parse_id(upload: &str) -> Option<(u64, bool)> {
    let part_size = upload.strip_suffix(GROWS);
    Some((part_size.unwrap_or(upload).parse().ok()?, part_size.is_some()))
}

fn path(key: &Key, upload: &str) -> String {
    format!("{}/.{}.{upload}", key.folder(), key.name())
}

fn invalid_part(what: &'static str) -> Error {
    Error::new(ErrorKind::Other, NAME, "write part").with_message(what)
}

/// How much disk space is reserved when an upload begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reservation {
    All,
    /// Reserves nothing. Only checks that there is space for the whole upload now.
    CheckOnly,
}

impl Local {
    async fn begin_with(
        &self,
        key: &Key,
        layout: PartLayout,
        upload: String,
        reservation: Reservation,
    ) -> Result<String> {
        self.root.check_writable("begin upload")?;
        let (root, path, key) = (self.root.clone(), path(key, &upload), key.clone());
        blocking("begin upload", move || {
            reserve(&root, &key, &path, layout.size, reservation)?;
            // Acknowledged parts must survive a power failure, so the directory entry of the
            // preallocated file must survive a power failure too.
            Ok(root.sync_folder(key.folder())?)
        })
        .await?;
        Ok(upload)
    }
}

impl Local {
    /// Returns the whole slot of a part. Waits until no other writer has the slot.
    async fn slot(&self, key: &Key, upload: &str, number: u32) -> Result<Slot> {
        let (size, grows) = parse_id(upload).ok_or_else(|| invalid_part("the upload id has no part size"))?;
        let offset = u64::from(number).checked_sub(1).and_then(|index| index.checked_mul(size));
        let offset = offset.ok_or_else(|| invalid_part("there is no slot with this number"))?;
        let path = path(key, upload);
        let file = self.root.preallocated_files.of(&path);
        let lock = file.slot(number).lock_owned().await;
        Ok(Slot { path, offset, size, grows, file, _lock: lock })
    }
}

#[async_trait]
impl Multipart for Local {
    fn min_part_size(&self) -> u64 {
        0
    }

    fn max_part_size(&self) -> u64 {
        u64::MAX
    }

    fn is_preallocated(&self) -> bool {
        true
    }

    async fn begin(&self, key: &Key, layout: Option<PartLayout>) -> Result<String> {
        let layout =
            layout.ok_or_else(|| invalid_part("the size and part size of the upload must be known"))?;
        self.begin_with(key, layout, layout.part_size.to_string(), Reservation::All).await
    }

    async fn begin_unreserved(&self, key: &Key, layout: PartLayout) -> Result<String> {
        self.begin_with(key, layout, layout.part_size.to_string(), Reservation::CheckOnly).await
    }

    async fn begin_growing(&self, key: &Key, slot_size: u64) -> Result<String> {
        // An empty file needs no space.
        let layout = PartLayout { size: 0, part_size: slot_size };
        self.begin_with(key, layout, format!("{slot_size}{GROWS}"), Reservation::CheckOnly).await
    }

    async fn create_part(
        &self,
        key: &Key,
        upload: &str,
        number: u32,
        size: u64,
    ) -> Result<Box<dyn ObjectWriter>> {
        self.root.check_writable("write part")?;
        let slot = self.slot(key, upload, number).await?;
        if size > slot.size {
            return Err(invalid_part("the part does not fit into its slot"));
        }
        let slot = Slot { size, ..slot };
        Ok(Box::new(writer::Writer::part(self.root.clone(), key.clone(), slot)))
    }

    async fn complete(&self, key: &Key, upload: &str, _parts: &[(u32, String)], end: u64) -> Result<()> {
        self.root.check_writable("complete upload")?;
        let (root, path, key) = (self.root.clone(), path(key, upload), key.clone());
        let completed = blocking("complete upload", move || {
            let file = root.preallocated_files.of(&path);
            let mut is_completed = file.is_completed.write().unwrap_or_else(PoisonError::into_inner);
            if !cut_off(&root, &path, end)? {
                return Ok(false);
            }
            root.publish(&path, &key)?;
            *is_completed = true;
            root.sync_folder(key.folder())?;
            Ok(true)
        });
        if completed.await? { Ok(()) } else { Err(Error::new(ErrorKind::Mismatch, NAME, "complete upload")) }
    }

    async fn open_incomplete(&self, key: &Key, upload: &str, range: Range<u64>) -> Result<ObjectReader> {
        let (root, path, end) = (self.root.clone(), path(key, upload), range.end);
        let file = blocking("open upload", move || {
            let file =
                rustix::fs::openat(&root.folder, path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, FILE_MODE)?;
            let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
            Ok((end <= size).then_some(file))
        });
        let file = file.await?.ok_or_else(|| Error::new(ErrorKind::Truncated, NAME, "open upload"))?;
        Ok(self.reader(Arc::new(file), range))
    }

    async fn discard_part(&self, key: &Key, upload: &str, number: u32) -> Result<()> {
        self.root.check_writable("discard part")?;
        let slot = self.slot(key, upload, number).await?;
        blocking("discard part", {
            let root = self.root.clone();
            move || Ok(punch_hole(&root, &slot)?)
        })
        .await
    }

    async fn abort(&self, key: &Key, upload: &str) -> Result<()> {
        self.root.check_writable("abort upload")?;
        let (root, path, folder) = (self.root.clone(), path(key, upload), key.folder().to_owned());
        blocking("abort upload", move || {
            match rustix::fs::unlinkat(&root.folder, path.as_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(root.sync_folder(&folder)?),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    async fn list_parts(&self, key: &Key, upload: &str) -> Result<Vec<(u32, String)>> {
        let (root, path) = (self.root.clone(), path(key, upload));
        blocking("list parts", move || {
            rustix::fs::statat(&root.folder, path.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(Vec::new())
        })
        .await
    }

    async fn abort_all(&self, key: &Key, part_size: Option<u64>) -> Result<()> {
        match part_size {
            Some(part_size) => {
                self.abort(key, &part_size.to_string()).await?;
                self.abort(key, &format!("{part_size}{GROWS}")).await
            }
            // Every upload in this store has a part size, so there is no upload to drop.
            None => Ok(()),
        }
    }

    async fn list_uploads(&self, key: Option<&Key>) -> Result<UploadList> {
        let object_name = key.map(ToString::to_string);
        let uploads = walk::list(self.root.clone(), "list uploads", |file| Ok(upload(file)));
        Ok(Box::pin(uploads.try_filter(move |upload| {
            std::future::ready(object_name.as_ref().is_none_or(|name| *name == upload.name))
        })))
    }
}

/// The upload that a preallocated file belongs to; `None` for other files.
fn upload(file: &walk::Entry<'_>) -> Option<ListedUpload> {
    let (name, upload) = file.name.strip_prefix('.')?.rsplit_once('.')?;
    parse_id(upload)?;
    Some(ListedUpload { name: format!("{}/{name}", file.folder), id: upload.to_owned() })
}

/// Creates a preallocated file of `size` bytes and reserves its disk space according to
/// `reservation`. An existing file keeps its content.
fn reserve(root: &Root, key: &Key, path: &str, size: u64, reservation: Reservation) -> std::io::Result<()> {
    let create = |flags| {
        let flags = flags | OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&root.folder, path, flags, FILE_MODE)
    };
    let (file, is_new) = match root.with_folder(key.folder(), || create(OFlags::EXCL)) {
        Err(Errno::EXIST) => (create(OFlags::empty())?, false),
        created => (created?, true),
    };
    let checked = if is_new { root.check_free_space(size) } else { Ok(()) };
    let reservation = checked.and_then(|()| allocate(&file, size, reservation)).and_then(|()| {
        if root.fsync {
            rustix::fs::fdatasync(&file)?;
        }
        Ok(())
    });
    if reservation.is_err() && is_new {
        // If the removal fails, the deletion of the blob removes the file later.
        let _ = rustix::fs::unlinkat(&root.folder, path, AtFlags::empty());
    }
    Ok(reservation?)
}

/// Removes what a part that does not belong to the object has left after `end`. Returns `false` if
/// the file ends before, so that it lacks a part.
fn cut_off(root: &Root, path: &str, end: u64) -> std::io::Result<bool> {
    let file = rustix::fs::openat(&root.folder, path, OFlags::WRONLY | OFlags::CLOEXEC, FILE_MODE)?;
    match u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0).cmp(&end) {
        Ordering::Equal => return Ok(true),
        Ordering::Less => return Ok(false),
        Ordering::Greater => {}
    }
    rustix::fs::ftruncate(&file, end)?;
    if root.fsync {
        rustix::fs::fdatasync(&file)?;
    }
    Ok(true)
}

/// Frees the disk space of a slot. Does nothing if the file is gone or is an object, or if the file
/// system does not support holes.
fn punch_hole(root: &Root, slot: &Slot) -> rustix::io::Result<()> {
    // No other slot is written meanwhile, so the file does not grow.
    let is_completed = slot.file.is_completed.write().unwrap_or_else(PoisonError::into_inner);
    if *is_completed {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&root.folder, slot.path.as_str(), flags, FILE_MODE) {
        Err(Errno::NOENT) => return Ok(()),
        file => file?,
    };
    let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
    if (slot.offset..=slot.offset.saturating_add(slot.size)).contains(&size) {
        return rustix::fs::ftruncate(&file, slot.offset);
    }
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(&file, hole, slot.offset, slot.size) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        punched => punched,
    }
}

fn allocate(file: &OwnedFd, size: u64, reservation: Reservation) -> rustix::io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    if reservation == Reservation::CheckOnly {
        return rustix::fs::ftruncate(file, size);
    }
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
            Err(Errno::INTR) => {}
            // The file system cannot allocate space in advance. Each part then checks the free
            // space itself.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return rustix::fs::ftruncate(file, size),
            reservation => return reservation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, DigestSelection, Digester, combine_subtrees, conformance::multipart::listed};
    use bytes::Bytes;
    use futures_util::TryStreamExt;

    const KEY: &str = "video/7.mp4";

    async fn opened() -> (tempfile::TempDir, Local, Key) {
        let root = tempfile::tempdir().unwrap();
        let store = Local::open(root.path(), true).await.unwrap();
        (root, store, Key::parse(KEY).unwrap())
    }

    async fn send(store: &Local, key: &Key, upload: &str, number: u32, bytes: &[u8]) -> [u8; 32] {
        let mut writer = store.create_part(key, upload, number, bytes.len() as u64).await.unwrap();
        let subtree_offset =
            Some(u64::from(number - 1) * upload.trim_end_matches(GROWS).parse::<u64>().unwrap());
        writer.select_digests(DigestSelection { subtree_offset, ..DigestSelection::default() });
        writer.write(Bytes::copy_from_slice(bytes)).await.unwrap();
        let digests = writer.finish().await.unwrap();
        assert_eq!((digests.md5, digests.sha256, digests.size), (None, None, bytes.len() as u64));
        writer.publish().await.unwrap();
        digests.blake3
    }

    async fn read(store: &Local, key: &Key, size: usize) -> Vec<u8> {
        let bytes: Vec<Bytes> = store.open(key, 0..size as u64).await.unwrap().try_collect().await.unwrap();
        bytes.concat()
    }

    #[tokio::test]
    async fn parts_sent_in_any_order_become_one_object() {
        let (root, store, key) = opened().await;
        let content: Vec<u8> = (0..=250_u8).cycle().take(1_300_000).collect();
        let part_size = 1 << 18;
        let layout = PartLayout { size: content.len() as u64, part_size: part_size as u64 };
        let upload = store.begin(&key, Some(layout)).await.unwrap();
        assert_eq!(store.begin(&key, Some(layout)).await.unwrap(), upload, "begun again");
        let begun = ListedUpload { name: KEY.to_owned(), id: upload.clone() };
        assert_eq!(listed(&store, Some(&key)).await, [begun]);
        let file = root.path().join(format!("video/.7.mp4.{upload}"));
        #[expect(clippy::disallowed_methods, reason = "a test may block")]
        let metadata = std::fs::metadata(&file).unwrap();
        assert_eq!(metadata.len(), layout.size);
        assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 >= layout.size, "space not reserved");

        let mut subtrees = vec![[0; 32]; content.chunks(part_size).count()];
        for (index, part) in content.chunks(part_size).enumerate().rev() {
            subtrees[index] = send(&store, &key, &upload, u32::try_from(index + 1).unwrap(), part).await;
        }
        assert!(store.size(&key).await.is_err(), "nothing can be read before it is completed");
        store.complete(&key, &upload, &[], layout.size).await.unwrap();
        assert!(read(&store, &key, content.len()).await == content);
        let mut whole = Digester::new(DigestSelection::default());
        whole.update(&content);
        assert_eq!(combine_subtrees(&subtrees, layout.part_size, layout.size), Some(whole.finish().blake3));
        assert_eq!(
            store.complete(&key, &upload, &[], layout.size).await.unwrap_err().kind,
            ErrorKind::NotFound
        );
        assert_eq!(store.list_parts(&key, &upload).await.unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(listed(&store, None).await, []);
    }

    #[tokio::test]
    async fn parts_of_an_unreserved_upload_need_free_space() {
        let (root, store, key) = opened().await;
        let layout = PartLayout { size: 1 << 20, part_size: 1 << 18 };
        let upload = store.begin_unreserved(&key, layout).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test may block")]
        let metadata = std::fs::metadata(root.path().join(format!("video/.7.mp4.{upload}"))).unwrap();
        assert_eq!(metadata.len(), layout.size);
        assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 < layout.size, "space reserved");
        send(&store, &key, &upload, 1, &vec![1; 1 << 18]).await;
        store.set_min_free_space(u64::MAX >> 1);
        let mut part = store.create_part(&key, &upload, 2, 1 << 18).await.unwrap();
        part.write(Bytes::from(vec![2; 1 << 18])).await.unwrap();
        assert_eq!(part.finish().await.unwrap_err().kind, ErrorKind::Full);
        let other = Key::parse("video/8.mp4").unwrap();
        assert!(store.begin_unreserved(&other, layout).await.is_err());
        // Parts can use reserved space even if the disk is otherwise full.
        store.set_min_free_space(0);
        let key = Key::parse("video/9.mp4").unwrap();
        let upload = store.begin(&key, Some(layout)).await.unwrap();
        store.set_min_free_space(u64::MAX >> 1);
        send(&store, &key, &upload, 1, &vec![1; 1 << 18]).await;
    }

    #[tokio::test]
    async fn a_part_stays_within_its_slot() {
        let (_root, store, key) = opened().await;
        let upload = store.begin(&key, Some(PartLayout { size: 3000, part_size: 1024 })).await.unwrap();
        let second = send(&store, &key, &upload, 2, &[2; 1024]).await;
        let mut first = store.create_part(&key, &upload, 1, 1024).await.unwrap();
        first.write(Bytes::from(vec![1; 1024])).await.unwrap();
        first.write(Bytes::from_static(b"x")).await.unwrap();
        assert!(first.finish().await.is_err(), "one byte too many");
        let mut short = store.create_part(&key, &upload, 3, 952).await.unwrap();
        short.write(Bytes::from_static(b"short")).await.unwrap();
        short.finish().await.unwrap();
        assert!(short.publish().await.is_err());
        assert!(store.create_part(&key, &upload, 3, 1025).await.is_err());
        assert!(store.create_part(&key, &upload, 0, 1).await.is_err());
        assert!(store.create_part(&key, "x", 1, 1).await.is_err());
        for (number, size) in [(3, 953), (4, 1), (4, 1024), (10_000, 1)] {
            let mut outside = store.create_part(&key, &upload, number, size).await.unwrap();
            outside.write(Bytes::from(vec![9; usize::try_from(size).unwrap()])).await.unwrap();
            assert!(outside.finish().await.is_err(), "part {number} of {size} bytes is not in the layout");
        }
        // Write the same slots again.
        send(&store, &key, &upload, 1, &[3; 1024]).await;
        send(&store, &key, &upload, 3, &[4; 952]).await;
        store.complete(&key, &upload, &[], 3000).await.unwrap();
        let content = read(&store, &key, 3000).await;
        assert!(
            content[..1024] == [3; 1024] && content[1024..2048] == [2; 1024] && content[2048..] == [4; 952]
        );
        let mut whole =
            Digester::new(DigestSelection { subtree_offset: Some(1024), ..DigestSelection::default() });
        whole.update(&content[1024..2048]);
        assert_eq!(whole.finish().blake3, second);
    }

    /// Content that is not zero anywhere.
    fn content(len: usize) -> Vec<u8> {
        (1..=251_u8).cycle().take(len).collect()
    }

    #[tokio::test]
    async fn a_file_of_unknown_size_grows_with_its_parts() {
        let (_root, store, key) = opened().await;
        let bytes = content(150_000);
        let upload = store.begin_growing(&key, 65_536).await.unwrap();
        assert_eq!(store.begin_growing(&key, 65_536).await.unwrap(), upload, "begun again");
        send(&store, &key, &upload, 3, &bytes[131_072..]).await;
        // The end of the file is known now, and no space is reserved before it.
        store.set_min_free_space(u64::MAX >> 1);
        let mut part = store.create_part(&key, &upload, 2, 65_536).await.unwrap();
        part.write(Bytes::copy_from_slice(&bytes[65_536..131_072])).await.unwrap();
        assert_eq!(part.finish().await.unwrap_err().kind, ErrorKind::Full);
        store.set_min_free_space(0);
        send(&store, &key, &upload, 1, &bytes[..65_536]).await;
        // No space is reserved after it either.
        store.set_min_free_space(u64::MAX >> 1);
        let mut part = store.create_part(&key, &upload, 4, 65_536).await.unwrap();
        part.write(Bytes::from(vec![9; 65_536])).await.unwrap();
        assert_eq!(part.finish().await.unwrap_err().kind, ErrorKind::Full);
        store.set_min_free_space(0);
        drop(part);
        send(&store, &key, &upload, 2, &bytes[65_536..131_072]).await;
        store.complete(&key, &upload, &[], 150_000).await.unwrap();
        assert!(read(&store, &key, 150_000).await == bytes);
        assert_eq!(store.size(&key).await.unwrap(), 150_000);
    }

    #[tokio::test]
    async fn an_object_ends_where_its_last_part_ends() {
        let (_root, store, key) = opened().await;
        let bytes = content(1500);
        let upload = store.begin_growing(&key, 1024).await.unwrap();
        send(&store, &key, &upload, 1, &bytes[..1024]).await;
        send(&store, &key, &upload, 2, &bytes[1024..]).await;
        let mut discarded = store.create_part(&key, &upload, 3, 1024).await.unwrap();
        discarded.write(Bytes::from(vec![9; 1024])).await.unwrap();
        discarded.finish().await.unwrap();
        let mut late = store.create_part(&key, &upload, 4, 1024).await.unwrap();
        store.complete(&key, &upload, &[], 1500).await.unwrap();
        for writer in [&mut discarded, &mut late] {
            let written = writer.write(Bytes::from(vec![9; BATCH_AND_MORE])).await;
            let outcome = match written {
                Ok(()) => writer.finish().await.map(|_| ()),
                failed => failed,
            };
            assert!(outcome.is_err(), "a part was written to an object");
        }
        assert_eq!(store.size(&key).await.unwrap(), 1500);
        assert!(read(&store, &key, 1500).await == bytes);
    }

    /// More bytes than a writer collects before it writes them.
    const BATCH_AND_MORE: usize = 300_000;

    #[tokio::test]
    async fn a_late_writer_does_not_change_the_object() {
        let (_root, store, key) = opened().await;
        let bytes = content(1_048_576);
        let upload = store.begin_growing(&key, 1_048_576).await.unwrap();
        send(&store, &key, &upload, 1, &bytes).await;
        // The writer has opened the file and written a part of its slot.
        let mut late = store.create_part(&key, &upload, 2, 1_048_576).await.unwrap();
        late.write(Bytes::from(vec![9; BATCH_AND_MORE])).await.unwrap();
        late.write(Bytes::from(vec![9; BATCH_AND_MORE])).await.unwrap();
        store.complete(&key, &upload, &[], 1_048_576).await.unwrap();
        assert!(late.write(Bytes::from(vec![9; 448_576])).await.is_err() || late.finish().await.is_err());
        assert_eq!(store.size(&key).await.unwrap(), 1_048_576);
        assert!(read(&store, &key, 1_048_576).await == bytes);
    }

    #[tokio::test]
    async fn a_discarded_part_occupies_no_space() {
        let (root, store, key) = opened().await;
        let upload = store.begin_growing(&key, 1 << 20).await.unwrap();
        for number in 1..=3 {
            send(&store, &key, &upload, number, &vec![7; 1 << 20]).await;
        }
        #[expect(clippy::disallowed_methods, reason = "a test may block")]
        let blocks = || {
            let metadata = std::fs::metadata(root.path().join(format!("video/.7.mp4.{upload}"))).unwrap();
            std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
        };
        assert!(blocks() >= 3 << 20);
        store.discard_part(&key, &upload, 2).await.unwrap();
        assert!(blocks() < 3 << 20, "{} bytes", blocks());
        store.discard_part(&key, &upload, 9).await.unwrap();
        let others = store.open_incomplete(&key, &upload, 0..3 << 20).await.unwrap();
        let others: Vec<Bytes> = others.try_collect().await.unwrap();
        let others = others.concat();
        assert!(others[..1 << 20].iter().chain(&others[2 << 20..]).all(|byte| *byte == 7));
        send(&store, &key, &upload, 2, &vec![8; 1 << 20]).await;
        store.complete(&key, &upload, &[], 3 << 20).await.unwrap();
        store.discard_part(&key, &upload, 1).await.unwrap();
        assert_eq!(read(&store, &key, 1 << 20).await[0], 7, "the upload is completed");
    }

    #[tokio::test]
    async fn published_parts_can_be_read_before_the_upload_is_completed() {
        let (_root, store, key) = opened().await;
        let bytes = content(1500);
        let upload = store.begin_growing(&key, 1024).await.unwrap();
        send(&store, &key, &upload, 2, &bytes[1024..]).await;
        let part = store.open_incomplete(&key, &upload, 1024..1500).await.unwrap();
        let part: Vec<Bytes> = part.try_collect().await.unwrap();
        assert!(part.concat() == bytes[1024..]);
        let beyond = store.open_incomplete(&key, &upload, 1024..1501).await;
        assert_eq!(beyond.err().map(|error| error.kind), Some(ErrorKind::Truncated));
        store.abort(&key, &upload).await.unwrap();
        let gone = store.open_incomplete(&key, &upload, 1024..1500).await;
        assert_eq!(gone.err().map(|error| error.kind), Some(ErrorKind::NotFound));
    }

    #[tokio::test]
    async fn a_suspended_part_is_continued() {
        let (_root, store, key) = opened().await;
        let (bytes, layout) = (content(1_400_000), PartLayout { size: 1_400_000, part_size: 1 << 20 });
        let upload = store.begin(&key, Some(layout)).await.unwrap();
        send(&store, &key, &upload, 2, &bytes[1 << 20..]).await;
        // With and without bytes before, and with a piece that is not a multiple of a batch.
        for (from, to) in [(0, 300_000), (300_000, 1_000_001), (1_000_001, 1 << 20)] {
            let mut writer = store.create_part(&key, &upload, 1, 1 << 20).await.unwrap();
            writer.select_digests(DigestSelection { subtree_offset: Some(0), ..DigestSelection::default() });
            let mut earlier = store.open_incomplete(&key, &upload, 0..from as u64).await.unwrap();
            while let Some(earlier) = earlier.try_next().await.unwrap() {
                writer.skip(earlier).await.unwrap();
            }
            writer.write(Bytes::copy_from_slice(&bytes[from..to])).await.unwrap();
            let mut expected =
                Digester::new(DigestSelection { subtree_offset: Some(0), ..DigestSelection::default() });
            expected.update(&bytes[..to]);
            assert_eq!(writer.finish().await.unwrap(), expected.finish());
            if to < 1 << 20 {
                writer.suspend().await.unwrap();
            } else {
                writer.publish().await.unwrap();
            }
        }
        store.complete(&key, &upload, &[], layout.size).await.unwrap();
        assert!(read(&store, &key, bytes.len()).await == bytes);
        let mut object = store.create(&key, crate::SizeHint::Unknown).await.unwrap();
        object.finish().await.unwrap();
        assert!(object.suspend().await.is_err(), "an object cannot be suspended");
    }

    #[tokio::test]
    async fn the_second_writer_of_a_slot_waits_for_the_first() {
        let (_root, store, key) = opened().await;
        let upload = store.begin(&key, Some(PartLayout { size: 10, part_size: 1024 })).await.unwrap();
        let first = store.create_part(&key, &upload, 1, 10).await.unwrap();
        let waiting = std::time::Duration::from_millis(50);
        let second = tokio::time::timeout(waiting, store.create_part(&key, &upload, 1, 10)).await;
        assert!(second.is_err(), "two writers have the same slot");
        drop(first);
        store.create_part(&key, &upload, 1, 10).await.unwrap();
    }

    #[tokio::test]
    async fn an_existing_object_is_not_replaced() {
        let (_root, store, key) = opened().await;
        let mut existing = store.create(&key, crate::SizeHint::Unknown).await.unwrap();
        existing.write(Bytes::from_static(b"there before")).await.unwrap();
        existing.finish().await.unwrap();
        existing.publish().await.unwrap();
        let upload = store.begin(&key, Some(PartLayout { size: 5, part_size: 1024 })).await.unwrap();
        send(&store, &key, &upload, 1, b"later").await;
        assert_eq!(store.complete(&key, &upload, &[], 5).await.unwrap_err().kind, ErrorKind::Exists);
        assert_eq!(read(&store, &key, 12).await, b"there before");
    }

    #[tokio::test]
    async fn an_upload_survives_a_restart_until_it_is_aborted() {
        let (root, store, key) = opened().await;
        let upload = store.begin(&key, Some(PartLayout { size: 2000, part_size: 1024 })).await.unwrap();
        send(&store, &key, &upload, 1, &[1; 1024]).await;
        drop(store);
        let store = Local::open(root.path(), true).await.unwrap();
        assert_eq!(listed(&store, None).await, [ListedUpload { name: KEY.to_owned(), id: upload.clone() }]);
        send(&store, &key, &upload, 2, &[2; 976]).await;
        store.abort_all(&key, None).await.unwrap();
        assert_eq!(listed(&store, None).await.len(), 1, "an upload with another part size");
        store.abort_all(&key, Some(1024)).await.unwrap();
        store.abort(&key, &upload).await.unwrap();
        assert_eq!(listed(&store, None).await, []);
        let aborted = store.create_part(&key, &upload, 1, 1024).await;
        let mut aborted = aborted.unwrap();
        aborted.write(Bytes::from(vec![1; 1024])).await.unwrap();
        assert_eq!(aborted.finish().await.unwrap_err().kind, ErrorKind::NotFound);
    }
}
