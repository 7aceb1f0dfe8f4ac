//! Reads a byte range of a file, from the page cache where possible.

use std::{
    io::IoSliceMut,
    num::NonZeroU64,
    ops::Range,
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::Stream;
use rustix::{
    fs::Advice,
    io::{Errno, ReadWriteFlags},
};
use tokio::task::JoinHandle;

use super::{NAME, job_result};
use crate::{Error, ErrorKind, Result, buffer::BufferPool};

/// Maximum number of bytes that one poll copies from the page cache. This takes about 10 µs, so it
/// does not need a thread for blocking calls.
const CACHED_READ: usize = 64 * 1024;
/// Maximum number of bytes that one job reads from the disk, on a thread for blocking calls.
///
/// Read-ahead is left to the kernel, which detects sequential reads, both from the page cache and
/// from the disk. Explicit read-ahead with `fadvise(WillNeed)` disturbs the kernel's read-ahead and
/// doubles the CPU time.
const DISK_READ: usize = 512 * 1024;

static CACHED_BUFFERS: BufferPool = BufferPool::new(CACHED_READ, 64);
static DISK_BUFFERS: BufferPool = BufferPool::new(DISK_READ, 8);

/// Streams a range of an open file. The range stays readable even after the file is unlinked.
pub(super) struct Reader {
    file: Arc<OwnedFd>,
    remaining: Range<u64>,
    /// Whether the latest read from the page cache was short. The next bytes are then not in the
    /// page cache.
    cache_missed: bool,
    from_disk: Option<JoinHandle<std::io::Result<Bytes>>>,
    /// Range that is dropped from the page cache before and after reading; `None` to use the cache.
    uncached_range: Option<Range<u64>>,
}

impl Reader {
    pub(super) fn new(file: Arc<OwnedFd>, range: Range<u64>) -> Self {
        Self { file, remaining: range, cache_missed: false, from_disk: None, uncached_range: None }
    }

    /// Reads from the disk instead of the page cache. Afterwards drops the pages that were read, so
    /// that they do not displace pages that other readers use. Dirty pages stay in the cache.
    pub(super) fn uncached(file: Arc<OwnedFd>, range: Range<u64>) -> Self {
        let mut reader = Self::new(file, range.clone());
        reader.uncached_range = Some(range);
        reader.drop_cache();
        reader
    }

    fn drop_cache(&self) {
        if let Some(range) = &self.uncached_range {
            let len = NonZeroU64::new(range.end - range.start);
            // Errors are ignored: a file system without a page cache has nothing to drop.
            let _ = rustix::fs::fadvise(&self.file, range.start, len, Advice::DontNeed);
        }
    }

    fn next_len(&self, limit: usize) -> usize {
        usize::try_from(self.remaining.end - self.remaining.start)
            .map_or(limit, |remaining| remaining.min(limit))
    }

    /// Reads from the page cache. `None` if the bytes must be read from the disk.
    fn read_cached(&mut self) -> Option<std::io::Result<Bytes>> {
        let mut buffer = CACHED_BUFFERS.acquire();
        let limit = self.next_len(CACHED_READ);
        let target = buffer.unfilled(limit);
        let mut target = [IoSliceMut::new(target)];
        match rustix::io::preadv2(&self.file, &mut target, self.remaining.start, ReadWriteFlags::NOWAIT) {
            Ok(count) => {
                buffer.advance(count);
                self.cache_missed = count < limit;
                Some(Ok(buffer.freeze()))
            }
            // Not cached, interrupted, or not supported by the file system: use a blocking read.
            Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    fn read_from_disk(&self) -> JoinHandle<std::io::Result<Bytes>> {
        let file = self.file.clone();
        let len = self.next_len(DISK_READ);
        let start = self.remaining.start;
        tokio::task::spawn_blocking(move || {
            let mut buffer = DISK_BUFFERS.acquire();
            while buffer.filled().len() < len {
                let missing = len - buffer.filled().len();
                let position = start + buffer.filled().len() as u64;
                match rustix::io::pread(&file, buffer.unfilled(missing), position) {
                    Ok(0) => break,
                    Ok(count) => buffer.advance(count),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(buffer.freeze())
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.drop_cache();
    }
}

impl Stream for Reader {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.remaining.is_empty() {
            return Poll::Ready(None);
        }
        if self.from_disk.is_none() {
            // After a short cached read, read from the disk: further cached reads would return one
            // page at a time, as the pages arrive from the disk.
            if !std::mem::take(&mut self.cache_missed)
                && let Some(read) = self.read_cached()
            {
                return Poll::Ready(Some(self.record_read(read)));
            }
            self.from_disk = Some(self.read_from_disk());
        }
        let Some(job) = self.from_disk.as_mut() else {
            return Poll::Ready(None);
        };
        let joined = ready!(Pin::new(job).poll(cx));
        self.from_disk = None;
        Poll::Ready(Some(job_result("read", joined).and_then(|bytes| self.record_read(Ok(bytes)))))
    }
}

impl Reader {
    /// Advances `remaining` by the bytes that were read. An empty read before the end of the range
    /// means that the file was truncated.
    fn record_read(&mut self, read: std::io::Result<Bytes>) -> Result<Bytes> {
        match read {
            Ok(bytes) if bytes.is_empty() => {
                self.remaining = 0..0;
                Err(Error::new(ErrorKind::Truncated, NAME, "read"))
            }
            Ok(bytes) => {
                self.remaining.start += bytes.len() as u64;
                Ok(bytes)
            }
            Err(error) => {
                self.remaining = 0..0;
                Err(Error::io(NAME, "read", error))
            }
        }
    }
}
