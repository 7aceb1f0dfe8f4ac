//! Packs: files under `<root>/packs` that each hold many small objects. Writing a small object as
//! its own file costs a folder entry and two syncs. A pack takes all objects that wait at the same
//! time with one write and one sync.
//!
//! A pack is a sequence of records, each a header and the content of one object. Records begin at
//! multiples of [`ALIGNMENT`]. The bytes between two records that were written at different times
//! can be anything, because a crash may leave an incomplete record.
//!
//! Packs only grow: no byte ever changes, so a backup can copy them at any time. The rows of the
//! database decide which records are live. A deleted object, and a record that a crash between the
//! write and the commit leaves without a row, are dead space. Compaction moves the live records out
//! of a pack and removes the pack.

use std::{
    collections::HashMap,
    io::{self, IoSlice, IoSliceMut},
    ops::Range,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags},
    io::{Errno, ReadWriteFlags},
};
use tokio::sync::{mpsc, oneshot};

use super::{FILE_MODE, Local, NAME, Root, blocking, make_folder, open_folder};
use crate::{
    Error, ErrorKind, Key, PackPage, PackRecord, PackedContent, PackedObject, Packs, Result,
    key::PackLocation,
};

/// Folder under the root that contains the packs.
pub(super) const FOLDER: &str = "packs";
/// A pack that has reached this size, in bytes, takes no more records.
pub(super) const PACK_SIZE: u64 = 64 << 20;
/// Maximum number of records in one write.
const MAX_BATCH: usize = 64;
/// Capacity of the queue. When it is full, `append` waits.
const MAX_QUEUED: usize = 256;
/// Maximum number of open packs that are kept for reading.
const MAX_OPEN: usize = 128;
/// Bytes that a scan for records reads at once.
const SCAN_BYTES: usize = 256 << 10;
/// Maximum number of records that a scan returns at once.
const SCAN_RECORDS: usize = 64;

/// Size of a record's header, in bytes.
const HEADER: usize = 64;
/// Records begin at multiples of this number of bytes.
const ALIGNMENT: u64 = HEADER as u64;
/// Begins the header of a record.
const MAGIC: [u8; 4] = *b"OSP1";

/// The packs of a store.
pub(super) struct PackFiles {
    /// Sends work to the thread that writes. `None` if the store was opened to read.
    jobs: Option<mpsc::Sender<Job>>,
    max_size: u64,
    /// Number of the newest pack; 0 if there is none.
    newest: Arc<AtomicU32>,
    open: Mutex<HashMap<u32, Arc<OwnedFd>>>,
    /// The packs that the writer or a [`PackedObject`] still uses.
    pins: Arc<Mutex<HashMap<u32, Weak<()>>>>,
}

/// Work for the thread that writes.
enum Job {
    Append(PendingRecord),
    /// Creates a pack if this one is the newest.
    Seal(u32, oneshot::Sender<io::Result<()>>),
}

struct PendingRecord {
    blob_id: i64,
    blake3: [u8; 32],
    bytes: Bytes,
    is_copy: bool,
    reply: oneshot::Sender<io::Result<PackedObject>>,
}

/// A header: magic, length, blob id, BLAKE3, and a checksum of these fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    blob_id: i64,
    length: u32,
    blake3: [u8; 32],
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.blob_id.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.blake3);
        let checksum = checksum(&bytes);
        bytes[48..].copy_from_slice(&checksum);
        bytes
    }

    /// Returns `None` unless these bytes begin with a header.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.first_chunk()?;
        let is_valid = bytes.starts_with(&MAGIC) && bytes[48..] == checksum(bytes);
        Some(Self {
            length: u32::from_le_bytes(*bytes[4..].first_chunk()?),
            blob_id: i64::from_le_bytes(*bytes[8..].first_chunk()?),
            blake3: *bytes[16..].first_chunk()?,
        })
        .filter(|_| is_valid)
    }
}

fn checksum(header: &[u8; HEADER]) -> [u8; 16] {
    let hash = *blake3::hash(&header[..48]).as_bytes();
    let mut checksum = [0; 16];
    checksum.copy_from_slice(&hash[..16]);
    checksum
}

/// Size of a record with this content, with the bytes up to the next record.
pub(crate) fn record_size(length: u64) -> u64 {
    (HEADER as u64 + length).next_multiple_of(ALIGNMENT)
}

fn path(pack: u32) -> String {
    format!("{FOLDER}/{pack:08x}")
}

impl PackFiles {
    /// Opens the packs of a store to read.
    pub(super) fn to_read() -> Self {
        Self { jobs: None, max_size: 0, newest: Arc::default(), open: Mutex::default(), pins: Arc::default() }
    }

    fn open_files(&self) -> MutexGuard<'_, HashMap<u32, Arc<OwnedFd>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn takes_records(&self) -> bool {
        self.jobs.is_some()
    }

    /// Has the thread that writes run a job.
    async fn run<T>(
        &self,
        operation: &'static str,
        job: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Job,
    ) -> Result<T> {
        let stopped = || Error::io(NAME, operation, io::Error::other("the pack writer has stopped"));
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job(reply)).await.map_err(|_| stopped())?;
        let result = answer.await.map_err(|_| stopped())?;
        result.map_err(|error| Error::io(NAME, operation, error))
    }

    /// Whether the pack may still take records, or a record in it may still get its row.
    fn is_in_use(&self, pack: u32) -> bool {
        if pack == self.newest.load(Ordering::Acquire) {
            return true;
        }
        let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.get(&pack).is_some_and(|pin| pin.strong_count() > 0)
    }
}

impl Local {
    /// Starts the thread that writes packs. Content of at most `max_size` bytes then goes to packs.
    /// Call this once, after `open`.
    pub fn start_packs(&mut self, max_size: u64) -> Result<()> {
        let start = || -> io::Result<PackFiles> {
            make_folder(&self.root.folder, FOLDER)?;
            if self.root.fsync {
                rustix::fs::fsync(&self.root.folder)?;
            }
            // A crash may have left a pack whose creation was not synced.
            self.root.sync_folder(FOLDER)?;
            let (jobs, queue) = mpsc::channel(MAX_QUEUED);
            let pins = Arc::<Mutex<_>>::default();
            let newest = Arc::new(AtomicU32::new(newest_pack(&self.root)?.unwrap_or(0)));
            let mut writer = Writer {
                root: self.root.clone(),
                pins: pins.clone(),
                newest: newest.clone(),
                may_continue: true,
                current: None,
            };
            thread::Builder::new().name("pack-writer".to_owned()).spawn(move || writer.serve(queue))?;
            Ok(PackFiles { jobs: Some(jobs), max_size, newest, open: Mutex::default(), pins })
        };
        let packs = start().map_err(|error| Error::io(NAME, "open packs", error))?;
        self.packs = Arc::new(packs);
        Ok(())
    }

    /// Opens a range of a packed object. Returns the pack and the range in the pack. Fails with
    /// `NotFound` unless the pack has the record of this object there.
    pub(super) async fn open_packed(
        &self,
        key: &Key,
        location: PackLocation,
        range: Range<u64>,
    ) -> Result<(Arc<OwnedFd>, Range<u64>)> {
        if range.start > range.end || range.end > location.length {
            return Err(Error::new(ErrorKind::Truncated, NAME, "open"));
        }
        let file = self.open_pack(location.pack).await?;
        let blob_id = key.blob_id();
        let mut header = [0; HEADER];
        let not_found = || Error::new(ErrorKind::NotFound, NAME, "open");
        let at = location.offset.checked_sub(HEADER as u64).ok_or_else(not_found)?;
        let cached =
            rustix::io::preadv2(&file, &mut [IoSliceMut::new(&mut header)], at, ReadWriteFlags::NOWAIT);
        if cached != Ok(HEADER) {
            let file = file.clone();
            header = blocking("open", move || read_header(&file, at)).await?;
        }
        let is_record = Header::decode(&header).is_some_and(|found| {
            Some(found.blob_id) == blob_id && u64::from(found.length) == location.length
        });
        if !is_record {
            return Err(not_found());
        }
        Ok((file, location.offset + range.start..location.offset + range.end))
    }

    async fn open_pack(&self, pack: u32) -> Result<Arc<OwnedFd>> {
        if let Some(file) = self.packs.open_files().get(&pack) {
            return Ok(file.clone());
        }
        let root = self.root.clone();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = path(pack);
        let cached = rustix::fs::openat2(&root.folder, &path, flags, Mode::empty(), ResolveFlags::CACHED);
        let file = match cached {
            Ok(file) => file,
            Err(_) => {
                blocking("open", move || Ok(rustix::fs::openat(&root.folder, path, flags, Mode::empty())?))
                    .await?
            }
        };
        let file = Arc::new(file);
        let mut open = self.packs.open_files();
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        open.insert(pack, file.clone());
        Ok(file)
    }

    /// The size of a packed object. Fails with `NotFound` if its record is gone.
    pub(super) async fn packed_size(&self, key: &Key, location: PackLocation) -> Result<u64> {
        self.open_packed(key, location, 0..location.length).await.map(|_| location.length)
    }
}

fn read_header(file: &OwnedFd, at: u64) -> io::Result<[u8; HEADER]> {
    let mut header = [0; HEADER];
    // A short read leaves zeros, which are no header.
    loop {
        match rustix::io::pread(file, &mut header, at) {
            Ok(_) => return Ok(header),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[async_trait]
impl Packs for Local {
    fn max_size(&self) -> u64 {
        self.packs.max_size
    }

    async fn append(&self, content: PackedContent) -> Result<PackedObject> {
        self.root.check_writable("append")?;
        let PackedContent { blob_id, blake3, bytes, is_copy } = content;
        let append = |reply| Job::Append(PendingRecord { blob_id, blake3, bytes, is_copy, reply });
        self.packs.run("append", append).await
    }

    async fn seal(&self, pack: u32) -> Result<()> {
        self.root.check_writable("seal")?;
        self.packs.run("seal", |reply| Job::Seal(pack, reply)).await
    }

    async fn records(&self, pack: u32, from: u64) -> Result<PackPage> {
        if self.packs.is_in_use(pack) {
            return Err(Error::new(ErrorKind::Busy, NAME, "scan"));
        }
        let file = self.open_pack(pack).await?;
        blocking("scan", move || scan(&file, pack, from)).await
    }

    async fn remove(&self, pack: u32) -> Result<()> {
        self.root.check_writable("remove")?;
        if self.packs.is_in_use(pack) {
            return Err(Error::new(ErrorKind::Busy, NAME, "remove"));
        }
        let root = self.root.clone();
        let removed = blocking("remove", move || {
            match rustix::fs::unlinkat(&root.folder, path(pack), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(root.sync_folder(FOLDER)?),
                Err(error) => Err(error.into()),
            }
        });
        removed.await?;
        self.packs.open_files().remove(&pack);
        Ok(())
    }
}

/// Returns the records of a pack from a position on. Content that looks like a record is returned
/// too: the caller compares the records with the rows.
fn scan(file: &OwnedFd, pack: u32, from: u64) -> io::Result<PackPage> {
    let mut page = PackPage { records: Vec::new(), next: None };
    let (mut buffer, mut buffered) = (vec![0; SCAN_BYTES], 0..0);
    let mut at = from.next_multiple_of(ALIGNMENT);
    loop {
        if page.records.len() >= SCAN_RECORDS {
            page.next = Some(at);
            return Ok(page);
        }
        if !(buffered.start <= at && at + HEADER as u64 <= buffered.end) {
            let count = rustix::io::pread(file, &mut buffer, at)?;
            if count < HEADER {
                return Ok(page);
            }
            buffered = at..at + count as u64;
        }
        let header = usize::try_from(at - buffered.start).ok().and_then(|start| buffer.get(start..));
        if let Some(Header { blob_id, length, blake3 }) = header.and_then(Header::decode) {
            let length = u64::from(length);
            let key = Key::packed(PackLocation { pack, offset: at + HEADER as u64, length }, blob_id);
            page.records.push(PackRecord { key, blob_id, length, blake3 });
        }
        // The content is not skipped: if it is incomplete, the next record may begin within it.
        at += ALIGNMENT;
    }
}

fn newest_pack(root: &Root) -> io::Result<Option<u32>> {
    let mut newest = None;
    for entry in Dir::read_from(open_folder(&root.folder, FOLDER)?)? {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        newest = newest.max(name.and_then(|name| u32::from_str_radix(name, 16).ok()));
    }
    Ok(newest)
}

/// Writes records, on its own thread.
struct Writer {
    root: Arc<Root>,
    pins: Arc<Mutex<HashMap<u32, Weak<()>>>>,
    /// Number of the newest pack; 0 if there is none.
    newest: Arc<AtomicU32>,
    /// Whether the newest pack may take more records after a start.
    may_continue: bool,
    current: Option<CurrentPack>,
}

/// The pack that takes the next records.
struct CurrentPack {
    number: u32,
    file: OwnedFd,
    end: u64,
    pin: Arc<()>,
}

impl Writer {
    fn serve(&mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let (mut batch, mut sealing) = (Vec::new(), None);
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::Append(record) => batch.push(record),
                    Job::Seal(pack, reply) => sealing = Some((pack, reply)),
                }
                if batch.len() < MAX_BATCH && sealing.is_none() {
                    next = queue.try_recv().ok();
                }
            }
            if !batch.is_empty() {
                self.append(batch);
            }
            if let Some((pack, reply)) = sealing {
                let is_newest = self.newest.load(Ordering::Acquire) == pack;
                let sealed = if is_newest { self.create_pack() } else { Ok(()) };
                let _ = reply.send(sealed);
            }
        }
    }

    fn append(&mut self, batch: Vec<PendingRecord>) {
        let size = |record: &PendingRecord| record_size(record.bytes.len() as u64);
        let new = batch.iter().filter(|record| !record.is_copy).map(size).sum();
        let (batch, refused) = match self.root.check_free_space(new) {
            Ok(()) => (batch, Vec::new()),
            Err(_) => batch.into_iter().partition(|record| record.is_copy),
        };
        for record in refused {
            let _ = record.reply.send(Err(Errno::NOSPC.into()));
        }
        if batch.is_empty() {
            return;
        }
        match self.write(&batch) {
            Ok(objects) => {
                for (record, object) in batch.into_iter().zip(objects) {
                    // If the caller is gone, the record is dead space.
                    let _ = record.reply.send(Ok(object));
                }
            }
            Err(error) => {
                // What of the batch has reached the disk is unknown, and after a failed sync the
                // kernel may have dropped it. So the pack takes no more records.
                self.may_continue = false;
                if let Some(pack) = self.current.take()
                    && pack.end == 0
                {
                    let _ = rustix::fs::unlinkat(&self.root.folder, path(pack.number), AtFlags::empty());
                }
                for record in batch {
                    let error = error.raw_os_error().map_or_else(
                        || io::Error::new(error.kind(), error.to_string()),
                        io::Error::from_raw_os_error,
                    );
                    let _ = record.reply.send(Err(error));
                }
            }
        }
    }

    /// Appends a batch durably.
    fn write(&mut self, batch: &[PendingRecord]) -> io::Result<Vec<PackedObject>> {
        let fsync = self.root.fsync;
        let pack = self.current_pack()?;
        let (start, mut at) = (pack.end, pack.end);
        let mut objects = Vec::with_capacity(batch.len());
        let mut headers = Vec::with_capacity(batch.len());
        for record in batch {
            let length = record.bytes.len() as u64;
            let header = Header {
                blob_id: record.blob_id,
                length: u32::try_from(length).map_err(io::Error::other)?,
                blake3: record.blake3,
            };
            headers.push(header.encode());
            let location = PackLocation { pack: pack.number, offset: at + HEADER as u64, length };
            objects.push(PackedObject { key: Key::packed(location, record.blob_id), _pin: pack.pin.clone() });
            at += record_size(length);
        }
        let padding = [0; HEADER];
        let mut slices = Vec::with_capacity(3 * batch.len());
        for (record, header) in batch.iter().zip(&headers) {
            let length = record.bytes.len() as u64;
            let missing = record_size(length) - HEADER as u64 - length;
            slices.push(IoSlice::new(header));
            slices.push(IoSlice::new(&record.bytes));
            let missing = usize::try_from(missing).unwrap_or(0);
            slices.push(IoSlice::new(padding.get(..missing).unwrap_or_default()));
        }
        write_all(&pack.file, &mut slices, start)?;
        if fsync {
            rustix::fs::fdatasync(&pack.file)?;
        }
        pack.end = at;
        Ok(objects)
    }

    /// Returns the pack that takes the next records. Continues the newest pack after a start, so
    /// that restarts do not leave small packs.
    fn current_pack(&mut self) -> io::Result<&mut CurrentPack> {
        if self.current.as_ref().is_some_and(|pack| pack.end >= PACK_SIZE) {
            self.current = None;
        }
        if self.current.is_none()
            && std::mem::replace(&mut self.may_continue, false)
            && let number @ 1.. = self.newest.load(Ordering::Acquire)
        {
            self.current = Some(self.open(number, OFlags::empty())?).filter(|pack| pack.end < PACK_SIZE);
        }
        if self.current.is_none() {
            self.create_pack()?;
        }
        self.current.as_mut().ok_or_else(|| io::Error::other("there is no pack"))
    }

    /// Creates the pack that takes the next records.
    fn create_pack(&mut self) -> io::Result<()> {
        let number = self.newest.load(Ordering::Acquire).checked_add(1);
        let number = number.ok_or_else(|| io::Error::other("there are too many packs"))?;
        let pack = self.open(number, OFlags::CREATE | OFlags::EXCL);
        if pack.is_ok() || pack.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            self.newest.store(number, Ordering::Release);
        }
        let pack = pack?;
        self.may_continue = false;
        if let Err(error) = self.root.sync_folder(FOLDER) {
            let _ = rustix::fs::unlinkat(&self.root.folder, path(number), AtFlags::empty());
            return Err(error.into());
        }
        self.current = Some(pack);
        Ok(())
    }

    fn open(&self, number: u32, flags: OFlags) -> io::Result<CurrentPack> {
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.root.folder, path(number), flags, FILE_MODE)?;
        let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        let pin = Arc::default();
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.retain(|_, pin| pin.strong_count() > 0);
        pins.insert(number, Arc::downgrade(&pin));
        Ok(CurrentPack { number, file, end: size.next_multiple_of(ALIGNMENT), pin })
    }
}

fn write_all(file: &OwnedFd, mut slices: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match rustix::io::pwritev(file, slices, at) {
            Ok(count) => {
                at += count as u64;
                IoSlice::advance_slices(&mut slices, count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
