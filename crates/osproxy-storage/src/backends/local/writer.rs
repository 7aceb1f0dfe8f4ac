//! Writes a new file, or a part into its slot of a preallocated file.

use std::{num::NonZeroU64, ops::Range, os::fd::OwnedFd, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::{
    fs::{Advice, AtFlags, FallocateFlags, OFlags},
    io::Errno,
};
use tokio::task::JoinHandle;

use super::{
    FILE_MODE, NAME, Root, job_result,
    preallocated::{FileState, Slot},
};
use crate::{
    DigestSelection, Digester, Digests, Error, ErrorKind, Key, ObjectWriter, Result,
    buffer::{Buffer, BufferPool},
};

/// Size of a batch, in bytes. Bytes are collected into batches; each batch is hashed and written in
/// one job.
const BATCH: usize = 256 * 1024;
/// Bytes of another object that one job appends. A running job cannot be cancelled, so copying goes
/// on for at most this many bytes after the writer is dropped.
const APPEND_CHUNK: usize = 8 * 1024 * 1024;
/// Writeback starts after this many dirty bytes, so that the sync at the end has little left to do.
const WRITE_BACK: u64 = 8 * 1024 * 1024;
/// Disk space is reserved in steps of this size, in bytes. The announced size is only the client's
/// claim: reserving the whole size in advance could leave no space for other writers.
const RESERVE_STEP: u64 = 32 * 1024 * 1024;
/// Bytes written between two checks of the free disk space.
const SPACE_CHECK_INTERVAL: u64 = 8 * 1024 * 1024;

static BUFFERS: BufferPool = BufferPool::new(BATCH, 16);

/// Collects bytes into a batch, while a thread for blocking calls hashes and writes the previous
/// batch. A writer that waits for bytes does not occupy a thread.
pub(super) struct Writer {
    key: Key,
    filling: Option<Buffer>,
    state: State,
}

enum State {
    /// No job is running.
    Idle(Box<Sink>),
    /// A job is running.
    Busy(JoinHandle<std::io::Result<Box<Sink>>>),
    /// An earlier call failed, and the sink is lost.
    Failed,
}

impl Writer {
    /// Writes an object, first under a temporary name.
    pub(super) fn new(root: Arc<Root>, key: Key, temporary: String, size_hint: Option<u64>) -> Self {
        Self::with_target(root, key, TargetFile::Temporary(temporary), size_hint.unwrap_or(0))
    }

    /// Writes a part into its slot of a preallocated file.
    pub(super) fn part(root: Arc<Root>, key: Key, slot: Slot) -> Self {
        let size_hint = slot.size;
        Self::with_target(root, key, TargetFile::Slot(slot), size_hint)
    }

    fn with_target(root: Arc<Root>, key: Key, target: TargetFile, size_hint: u64) -> Self {
        Self {
            key,
            filling: None,
            state: State::Idle(Box::new(Sink {
                root,
                target,
                file: None,
                digester: Digester::default(),
                written: 0,
                written_back: 0,
                reserved: 0,
                size_hint,
                space_checked: 0,
            })),
        }
    }

    /// Waits for the running job, if any, and takes the sink. The caller must put the sink back.
    /// Until then, the state of the writer is [`State::Failed`].
    async fn take_sink(&mut self) -> Result<Box<Sink>> {
        // Await the job inside `self.state`: if the caller is cancelled here, the job must not be
        // lost.
        if let State::Busy(job) = &mut self.state {
            let joined = job.await;
            self.state = State::Failed;
            return job_result("write", joined);
        }
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Idle(sink) => Ok(sink),
            _ => Err(Error::new(ErrorKind::Other, NAME, "write")),
        }
    }

    /// Waits for the previous job, if any, and then starts `work` on the sink.
    async fn start(
        &mut self,
        work: impl FnOnce(&mut Sink) -> std::io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let mut sink = self.take_sink().await?;
        self.state = State::Busy(tokio::task::spawn_blocking(move || work(&mut sink).map(|()| sink)));
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        match self.filling.take() {
            Some(batch) => self.start(move |sink| sink.append(batch.filled())).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl ObjectWriter for Writer {
    fn select_digests(&mut self, selection: DigestSelection) {
        if let State::Idle(sink) = &mut self.state {
            sink.digester = Digester::new(selection);
        }
    }

    async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let buffer = self.filling.get_or_insert_with(|| BUFFERS.acquire());
            buffer.fill_from(&mut bytes);
            if buffer.is_full() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn skip(&mut self, bytes: Bytes) -> Result<()> {
        self.flush().await?;
        self.start(move |sink| sink.skip(&bytes)).await
    }

    async fn append_object(&mut self, key: &Key, range: Range<u64>) -> Result<bool> {
        self.flush().await?;
        let sink = self.take_sink().await?;
        let (root, key) = (sink.root.clone(), key.clone());
        self.state = State::Idle(sink);
        let object = super::blocking("append", move || {
            let object = root.open(&key)?;
            let size = u64::try_from(rustix::fs::fstat(&object)?.st_size).unwrap_or(0);
            Ok((range.end <= size).then_some((object, range)))
        });
        let too_short = || Error::new(ErrorKind::Truncated, NAME, "append");
        let (object, range) = object.await?.ok_or_else(too_short)?;
        let object = Arc::new(object);
        for start in range.clone().step_by(APPEND_CHUNK) {
            let (object, range) = (object.clone(), start..range.end.min(start + APPEND_CHUNK as u64));
            self.start(move |sink| sink.append_range(&object, range)).await?;
        }
        Ok(true)
    }

    async fn finish(&mut self) -> Result<Digests> {
        self.flush().await?;
        let sink = self.take_sink().await?;
        let digests = sink.digester.clone().finish();
        self.state = State::Idle(sink);
        Ok(digests)
    }

    async fn publish(mut self: Box<Self>) -> Result<String> {
        let sink = self.take_sink().await?;
        let key = self.key.clone();
        super::blocking("publish", move || sink.publish(&key)).await?;
        Ok(String::new())
    }

    async fn suspend(mut self: Box<Self>) -> Result<()> {
        let sink = self.take_sink().await?;
        super::blocking("suspend part", move || sink.suspend()).await
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A running job drops its sink when it ends. Dropping an idle sink may remove a file, which
        // can block, so drop it on a thread for blocking calls.
        let State::Idle(sink) = std::mem::replace(&mut self.state, State::Failed) else {
            return;
        };
        if sink.file.is_some()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(sink));
        }
    }
}

/// The file that bytes are written to.
enum TargetFile {
    /// A new file. It has this temporary name until the object is published.
    Temporary(String),
    /// A slot of a preallocated file. Other writers write to other slots of the file.
    Slot(Slot),
}

/// The blocking half of a writer: hashes, writes, publishes. Dropping a sink before it is published
/// removes the temporary file. Bytes that were written to a slot stay in the file, but they count
/// as content only when the part is recorded as stored.
struct Sink {
    root: Arc<Root>,
    target: TargetFile,
    /// `None` until the first use creates or opens the file.
    file: Option<OwnedFd>,
    digester: Digester,
    written: u64,
    written_back: u64,
    reserved: u64,
    size_hint: u64,
    /// When `written` exceeds this value, the next check of the free space is due.
    space_checked: u64,
}

impl Sink {
    fn file(&mut self) -> rustix::io::Result<&OwnedFd> {
        if self.file.is_none() {
            let (path, flags) = match &self.target {
                TargetFile::Temporary(name) => (name, OFlags::CREATE | OFlags::EXCL),
                TargetFile::Slot(slot) => (&slot.path, OFlags::empty()),
            };
            let flags = flags | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.root.folder, path.as_str(), flags, FILE_MODE)?;
            // A file that was shortened must not become long again: the parts that it lost would be
            // a hole.
            if let TargetFile::Slot(slot) = &self.target
                && !slot.grows
                && u64::try_from(rustix::fs::fstat(&file)?.st_size)
                    .is_ok_and(|size| slot.offset.saturating_add(slot.size) > size)
            {
                return Err(Errno::INVAL);
            }
            self.file = Some(file);
        }
        self.file.as_ref().ok_or(Errno::BADF)
    }

    fn preallocated_file(&self) -> Option<Arc<FileState>> {
        if let TargetFile::Slot(slot) = &self.target { Some(slot.file.clone()) } else { None }
    }

    /// File offset of the next byte.
    fn end(&self) -> u64 {
        let start = if let TargetFile::Slot(slot) = &self.target { slot.offset } else { 0 };
        start + self.written
    }

    /// Checks periodically that the disk has space for the rest of the announced size. A slot needs
    /// no check if all space of its file is allocated.
    fn check_free_space(&mut self, len: u64) -> rustix::io::Result<()> {
        if self.written + len > self.space_checked {
            if matches!(&self.target, TargetFile::Slot(slot) if !slot.grows) && self.is_reserved()? {
                self.space_checked = u64::MAX;
                return Ok(());
            }
            self.space_checked = self.written + SPACE_CHECK_INTERVAL;
            let expected = self.size_hint.saturating_sub(self.reserved.max(self.written));
            self.root.check_free_space(expected.max(len))?;
        }
        Ok(())
    }

    /// Whether all space of the file is allocated.
    fn is_reserved(&mut self) -> rustix::io::Result<bool> {
        /// Unit of `st_blocks` in bytes.
        const BLOCK: i64 = 512;
        let stat = rustix::fs::fstat(self.file()?)?;
        Ok(stat.st_blocks.saturating_mul(BLOCK) >= stat.st_size)
    }

    /// Fails if `len` more bytes would exceed the slot and overwrite the next one.
    fn check_part_size(&self, len: u64) -> std::io::Result<()> {
        match &self.target {
            TargetFile::Slot(slot) if self.written + len > slot.size => {
                Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "part exceeds its announced size"))
            }
            _ => Ok(()),
        }
    }

    /// Hashes bytes that are in the slot already.
    fn skip(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.check_part_size(bytes.len() as u64)?;
        self.digester.update(bytes);
        self.written += bytes.len() as u64;
        self.written_back = self.written;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.check_part_size(bytes.len() as u64)?;
        self.check_free_space(bytes.len() as u64)?;
        self.digester.update(bytes);
        self.reserve(bytes.len() as u64)?;
        let (mut remaining, mut at) = (bytes, self.end());
        let preallocated = self.preallocated_file();
        let _incomplete = preallocated.as_ref().map(|file| file.lock_incomplete()).transpose()?;
        while !remaining.is_empty() {
            match rustix::io::pwrite(self.file()?, remaining, at) {
                Ok(count) => {
                    at += count as u64;
                    remaining = remaining.get(count..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.written += bytes.len() as u64;
        self.write_back()
    }

    /// Appends a range of another file. Reads the bytes to hash them. The kernel copies the bytes,
    /// or lets both files share the blocks. If the kernel supports neither, writes the bytes that
    /// were read.
    fn append_range(&mut self, object: &OwnedFd, mut range: Range<u64>) -> std::io::Result<()> {
        let mut buffer = BUFFERS.acquire();
        while !range.is_empty() {
            let missing = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            buffer.clear();
            let count = match rustix::io::pread(object, buffer.unfilled(missing), range.start) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            buffer.advance(count);
            if self.copy_by_kernel(object, range.start, count)? {
                self.digester.update(buffer.filled());
                self.written += count as u64;
                self.write_back()?;
            } else {
                self.append(buffer.filled())?;
            }
            // From now on, readers use the copy, so the page cache can drop the source.
            let _ = rustix::fs::fadvise(object, range.start, NonZeroU64::new(count as u64), Advice::DontNeed);
            range.start += count as u64;
        }
        Ok(())
    }

    /// Copies `count` bytes at offset `start` of another file to the end of this file. Returns
    /// `false`, and copies nothing, if the kernel or the file system does not support this.
    fn copy_by_kernel(&mut self, object: &OwnedFd, start: u64, count: usize) -> std::io::Result<bool> {
        self.check_part_size(count as u64)?;
        self.check_free_space(count as u64)?;
        let (mut from, mut to) = (start, self.end());
        let preallocated = self.preallocated_file();
        let _incomplete = preallocated.as_ref().map(|file| file.lock_incomplete()).transpose()?;
        let end = start + count as u64;
        while from < end {
            let remaining = usize::try_from(end - from).unwrap_or(count);
            match rustix::fs::copy_file_range(object, Some(&mut from), self.file()?, Some(&mut to), remaining)
            {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM)
                    if from == start =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Reserves disk space for the next bytes, so that a large file has few extents and a full disk
    /// is noticed early.
    fn reserve(&mut self, len: u64) -> rustix::io::Result<()> {
        // Reserve nothing for a slot: discarding it does not free blocks beyond the end of the
        // file.
        let is_slot = matches!(self.target, TargetFile::Slot(_));
        if is_slot || self.written + len <= self.reserved || self.size_hint <= self.reserved + BATCH as u64 {
            return Ok(());
        }
        let (offset, len) = (self.reserved, RESERVE_STEP.min(self.size_hint - self.reserved));
        match rustix::fs::fallocate(self.file()?, FallocateFlags::KEEP_SIZE, offset, len) {
            Ok(()) => self.reserved += len,
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => self.size_hint = 0,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn write_back(&mut self) -> std::io::Result<()> {
        let len = self.written - self.written_back;
        if self.root.fsync && len >= WRITE_BACK {
            let offset = self.end() - len;
            self.written_back = self.written;
            // `DontNeed` does not drop dirty pages; it only starts their writeback.
            rustix::fs::fadvise(self.file()?, offset, NonZeroU64::new(len), Advice::DontNeed)?;
        }
        Ok(())
    }

    /// Makes the bytes in a slot durable.
    fn suspend(mut self: Box<Self>) -> std::io::Result<()> {
        if !matches!(self.target, TargetFile::Slot(_)) {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        let fsync = self.root.fsync;
        let file = self.file()?;
        if fsync {
            rustix::fs::fdatasync(file)?;
        }
        Ok(())
    }

    fn publish(mut self: Box<Self>, key: &Key) -> std::io::Result<()> {
        let (written, fsync, excess) = (self.written, self.root.fsync, self.reserved > self.written);
        if let TargetFile::Slot(slot) = &self.target
            && slot.size != written
        {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let file = self.file()?;
        if excess {
            rustix::fs::ftruncate(file, written)?;
        }
        if fsync {
            rustix::fs::fdatasync(file)?;
        }
        let TargetFile::Temporary(temporary) = &self.target else {
            return Ok(());
        };
        self.root.publish(temporary, key)?;
        let root = self.root.clone();
        // The temporary file was renamed, so `drop` must not remove it.
        self.file = None;
        Ok(root.sync_folder(key.folder())?)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let (Some(_), TargetFile::Temporary(temporary)) = (&self.file, &self.target) {
            // If this fails, the next `Local::open` removes the file.
            let _ = rustix::fs::unlinkat(&self.root.folder, temporary.as_str(), AtFlags::empty());
        }
    }
}
