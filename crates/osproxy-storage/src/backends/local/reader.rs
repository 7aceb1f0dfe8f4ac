use std::{
    io::IoSliceMut,
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

use super::{NAME, finished};
use crate::{Error, ErrorKind, Result, buffer::BufferPool};

/// Bytes that are in the page cache are copied on the reactor, this many at once: about 10 µs.
const CACHED_READ: usize = 64 * 1024;
/// Bytes that have to come from the disk are read on a thread for blocking calls, this many at once.
const DISK_READ: usize = 512 * 1024;
/// How far the kernel is asked to read ahead of a disk read, so that the next reads find their bytes cached.
const READ_AHEAD: u64 = 2 * 1024 * 1024;

static CACHED_BUFFERS: BufferPool = BufferPool::new(CACHED_READ, 64);
static DISK_BUFFERS: BufferPool = BufferPool::new(DISK_READ, 8);

/// Streams a range of an open file. The file stays readable to its end even when its name is gone.
pub(super) struct Reader {
    file: Arc<OwnedFd>,
    rest: Range<u64>,
    from_disk: Option<JoinHandle<std::io::Result<Bytes>>>,
}

impl Reader {
    pub(super) fn new(file: OwnedFd, range: Range<u64>) -> Self {
        Self { file: Arc::new(file), rest: range, from_disk: None }
    }

    fn next_len(&self, limit: usize) -> usize {
        usize::try_from(self.rest.end - self.rest.start).map_or(limit, |rest| rest.min(limit))
    }

    /// Reads what is in the page cache, or tells by `None` that it has to come from the disk.
    fn read_cached(&self) -> Option<std::io::Result<Bytes>> {
        let mut buffer = CACHED_BUFFERS.take();
        let target = buffer.unfilled(self.next_len(CACHED_READ));
        let mut target = [IoSliceMut::new(target)];
        match rustix::io::preadv2(&self.file, &mut target, self.rest.start, ReadWriteFlags::NOWAIT) {
            Ok(count) => {
                buffer.advance(count);
                Some(Ok(buffer.freeze()))
            }
            // Not cached; interrupted; or a file system that cannot tell. A blocking read finds out.
            Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    fn read_from_disk(&self) -> JoinHandle<std::io::Result<Bytes>> {
        let file = self.file.clone();
        let len = self.next_len(DISK_READ);
        let rest = self.rest.clone();
        tokio::task::spawn_blocking(move || {
            let after = rest.start + len as u64;
            let ahead = rest.end.saturating_sub(after).min(READ_AHEAD);
            if let Some(ahead) = std::num::NonZeroU64::new(ahead) {
                // Only a hint: what it cannot do costs time, not correctness.
                let _ = rustix::fs::fadvise(&file, after, Some(ahead), Advice::WillNeed);
            }
            let mut buffer = DISK_BUFFERS.take();
            while buffer.filled().len() < len {
                let wanted = len - buffer.filled().len();
                let position = rest.start + buffer.filled().len() as u64;
                match rustix::io::pread(&file, buffer.unfilled(wanted), position) {
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

impl Stream for Reader {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if self.from_disk.is_none() {
            match self.read_cached() {
                Some(read) => return Poll::Ready(Some(self.took(read))),
                None => self.from_disk = Some(self.read_from_disk()),
            }
        }
        let Some(job) = self.from_disk.as_mut() else {
            return Poll::Ready(None);
        };
        let joined = ready!(Pin::new(job).poll(cx));
        self.from_disk = None;
        Poll::Ready(Some(finished("read", joined).and_then(|bytes| self.took(Ok(bytes)))))
    }
}

impl Reader {
    /// Accounts for bytes that were read. No bytes before the end of the range means that the file was cut.
    fn took(&mut self, read: std::io::Result<Bytes>) -> Result<Bytes> {
        match read {
            Ok(bytes) if bytes.is_empty() => {
                self.rest = 0..0;
                Err(Error::new(ErrorKind::Truncated, NAME, "read"))
            }
            Ok(bytes) => {
                self.rest.start += bytes.len() as u64;
                Ok(bytes)
            }
            Err(error) => {
                self.rest = 0..0;
                Err(Error::io(NAME, "read", error))
            }
        }
    }
}
