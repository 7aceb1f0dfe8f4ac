use std::{num::NonZeroU64, ops::Range, os::fd::OwnedFd, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::{
    fs::{Advice, AtFlags, FallocateFlags, OFlags},
    io::Errno,
};
use tokio::task::JoinHandle;

use super::{FILE_MODE, NAME, Root, finished, placed::Slot};
use crate::{
    Digester, Digests, Error, ErrorKind, Key, ObjectWriter, Result, Wanted,
    buffer::{Buffer, BufferPool},
};

/// Bytes are collected to this many before they are hashed and written in one go.
const BATCH: usize = 256 * 1024;
/// How many bytes of another object are appended in one go: a moment's work, so that it can be given up.
const APPEND: usize = 8 * 1024 * 1024;
/// How many bytes are written before the kernel is asked to begin bringing them to the disk, so that the sync
/// at the end finds little left to do.
const WRITE_BACK: u64 = 8 * 1024 * 1024;
/// Space is reserved in steps: an announced size is only a claim, and must not take the disk from others.
const RESERVE: u64 = 32 * 1024 * 1024;

/// How many bytes are written before it is looked again whether the disk has room.
const LOOK: u64 = 8 * 1024 * 1024;

static BUFFERS: BufferPool = BufferPool::new(BATCH, 16);

/// Collects bytes on the reactor while the batch before is hashed and written on a thread for blocking calls.
/// A thread is held only while there is work for it: clients that are slow hold none.
pub(super) struct Writer {
    key: Key,
    filling: Option<Buffer>,
    state: State,
}

enum State {
    /// Nothing is running.
    Idle(Box<Sink>),
    /// A batch is on its way.
    Busy(JoinHandle<std::io::Result<Box<Sink>>>),
    /// An error was returned before.
    Failed,
}

impl Writer {
    /// Writes an object, under a temporary name first.
    pub(super) fn new(root: Arc<Root>, key: Key, temporary: String, size_hint: Option<u64>) -> Self {
        Self::to(root, key, Place::Temporary(temporary), size_hint.unwrap_or(0))
    }

    /// Writes a part at its place in the object to be.
    pub(super) fn part(root: Arc<Root>, key: Key, slot: Slot) -> Self {
        Self::to(root, key, Place::Slot(slot), 0)
    }

    fn to(root: Arc<Root>, key: Key, place: Place, size_hint: u64) -> Self {
        Self {
            key,
            filling: None,
            state: State::Idle(Box::new(Sink {
                root,
                place,
                file: None,
                digester: Digester::default(),
                written: 0,
                written_back: 0,
                reserved: 0,
                size_hint,
                looked: 0,
            })),
        }
    }

    /// Waits for the batch that is on its way and takes the sink. Whoever takes it puts it back, or has failed.
    async fn take_sink(&mut self) -> Result<Box<Sink>> {
        // The job is awaited in place, so that a caller who gives up here loses nothing.
        if let State::Busy(job) = &mut self.state {
            let joined = job.await;
            self.state = State::Failed;
            return finished("write", joined);
        }
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Idle(sink) => Ok(sink),
            _ => Err(Error::new(ErrorKind::Other, NAME, "write")),
        }
    }

    /// Starts work on the sink once the work before it is done.
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
    fn want(&mut self, wanted: Wanted) {
        if let State::Idle(sink) = &mut self.state {
            sink.digester = Digester::new(wanted);
        }
    }

    async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let buffer = self.filling.get_or_insert_with(|| BUFFERS.take());
            buffer.fill_from(&mut bytes);
            if buffer.is_full() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn append_object(&mut self, key: &Key, size: u64) -> Result<bool> {
        self.flush().await?;
        let sink = self.take_sink().await?;
        let (root, key) = (sink.root.clone(), key.clone());
        self.state = State::Idle(sink);
        let object = super::blocking("append", move || {
            let object = root.open(&key)?;
            let found = rustix::fs::fstat(&object)?.st_size;
            Ok((u64::try_from(found) == Ok(size)).then_some(object))
        });
        let object = object.await?.ok_or_else(|| Error::new(ErrorKind::Truncated, NAME, "append"))?;
        let object = Arc::new(object);
        for start in (0..size).step_by(APPEND) {
            let (object, range) = (object.clone(), start..size.min(start + APPEND as u64));
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
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A batch on its way drops its sink where it runs. An idle sink has a file to remove, which may take long.
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

/// Where bytes are written.
enum Place {
    /// A file of its own under this temporary name, until it is published.
    Temporary(String),
    /// A range of a file that others write too.
    Slot(Slot),
}

/// The blocking half: hashes, writes, publishes. Dropped unpublished, it removes its file; what it has written into a file
/// that is not its own stays there, and means nothing.
struct Sink {
    root: Arc<Root>,
    place: Place,
    /// Created, or opened, with the first batch.
    file: Option<OwnedFd>,
    digester: Digester,
    written: u64,
    written_back: u64,
    reserved: u64,
    size_hint: u64,
    /// Up to where there was room.
    looked: u64,
}

impl Sink {
    fn file(&mut self) -> rustix::io::Result<&OwnedFd> {
        if self.file.is_none() {
            let (path, flags) = match &self.place {
                Place::Temporary(name) => (name, OFlags::CREATE | OFlags::EXCL),
                Place::Slot(slot) => (&slot.path, OFlags::empty()),
            };
            let flags = flags | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.root.folder, path.as_str(), flags, FILE_MODE)?;
            self.file = Some(file);
        }
        self.file.as_ref().ok_or(Errno::BADF)
    }

    /// Where in the file the next byte goes.
    fn end(&self) -> u64 {
        let start = if let Place::Slot(slot) = &self.place { slot.offset } else { 0 };
        start + self.written
    }

    /// Looks now and then whether the disk has room for what is to come, as far as that is known. Parts of a file that was
    /// reserved have had it from the start.
    fn must_have_room(&mut self, coming: u64) -> rustix::io::Result<()> {
        if self.written + coming > self.looked {
            if matches!(self.place, Place::Slot(_)) && self.is_reserved()? {
                self.looked = u64::MAX;
                return Ok(());
            }
            self.looked = self.written + LOOK;
            let announced = self.size_hint.saturating_sub(self.reserved.max(self.written));
            self.root.must_have_room(announced.max(coming))?;
        }
        Ok(())
    }

    /// Whether all of the file has its room on the disk.
    fn is_reserved(&mut self) -> rustix::io::Result<bool> {
        /// What the kernel counts room in, in bytes.
        const BLOCK: i64 = 512;
        let found = rustix::fs::fstat(self.file()?)?;
        Ok(found.st_blocks.saturating_mul(BLOCK) >= found.st_size)
    }

    /// Refuses what would be written over the next part.
    fn check(&self, coming: u64) -> std::io::Result<()> {
        match &self.place {
            Place::Slot(slot) if self.written + coming > slot.size => {
                Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "more bytes than the part has"))
            }
            _ => Ok(()),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.check(bytes.len() as u64)?;
        self.must_have_room(bytes.len() as u64)?;
        self.digester.update(bytes);
        self.reserve(bytes.len() as u64)?;
        let (mut rest, mut at) = (bytes, self.end());
        while !rest.is_empty() {
            match rustix::io::pwrite(self.file()?, rest, at) {
                Ok(count) => {
                    at += count as u64;
                    rest = rest.get(count..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.written += bytes.len() as u64;
        self.write_back()
    }

    /// Appends a range of another file. The bytes are hashed out of the page cache; the kernel copies them, or lets
    /// both files share them.
    fn append_range(&mut self, object: &OwnedFd, mut range: Range<u64>) -> std::io::Result<()> {
        let mut buffer = BUFFERS.take();
        while !range.is_empty() {
            let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            buffer.clear();
            let count = match rustix::io::pread(object, buffer.unfilled(wanted), range.start) {
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
            // From here on it is the copy that is read. Its pages can have the memory of those it was made of.
            let _ = rustix::fs::fadvise(object, range.start, NonZeroU64::new(count as u64), Advice::DontNeed);
            range.start += count as u64;
        }
        Ok(())
    }

    /// Copies `count` bytes from `start` of another file to the end of this one, and says whether it did: where the
    /// kernel or the file system cannot, nothing has happened.
    fn copy_by_kernel(&mut self, object: &OwnedFd, start: u64, count: usize) -> std::io::Result<bool> {
        self.check(count as u64)?;
        self.must_have_room(count as u64)?;
        let (mut from, mut to) = (start, self.end());
        let end = start + count as u64;
        while from < end {
            let rest = usize::try_from(end - from).unwrap_or(count);
            match rustix::fs::copy_file_range(object, Some(&mut from), self.file()?, Some(&mut to), rest) {
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

    /// Reserves the space of the next bytes, so that a large file lies in few pieces and a full disk is told early.
    fn reserve(&mut self, coming: u64) -> rustix::io::Result<()> {
        if self.written + coming <= self.reserved || self.size_hint <= self.reserved + BATCH as u64 {
            return Ok(());
        }
        let (offset, len) = (self.reserved, RESERVE.min(self.size_hint - self.reserved));
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
            // Pages that are dirty are not dropped by this, only sent on their way.
            rustix::fs::fadvise(self.file()?, offset, NonZeroU64::new(len), Advice::DontNeed)?;
        }
        Ok(())
    }

    fn publish(mut self: Box<Self>, key: &Key) -> std::io::Result<()> {
        let (written, fsync, excess) = (self.written, self.root.fsync, self.reserved > self.written);
        if let Place::Slot(slot) = &self.place
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
        let Place::Temporary(temporary) = &self.place else {
            return Ok(());
        };
        self.root.publish(temporary, key)?;
        let root = self.root.clone();
        // From here on there is no temporary name to remove.
        self.file = None;
        Ok(root.sync_folder(key.folder())?)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let (Some(_), Place::Temporary(temporary)) = (&self.file, &self.place) {
            // If this fails, the next start clears it.
            let _ = rustix::fs::unlinkat(&self.root.folder, temporary.as_str(), AtFlags::empty());
        }
    }
}
