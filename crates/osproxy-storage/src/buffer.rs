//! Pools of reusable page-aligned buffers.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Alignment of buffers, in bytes. Copying between the page cache and a buffer that is not
/// page-aligned costs twice the CPU time.
const ALIGNMENT: usize = 4096;

/// Reusable page-aligned buffers of one size. An empty pool allocates a new buffer instead of
/// waiting. A pool keeps at most `max_idle` returned buffers, and does not limit the number of
/// buffers in use.
pub(crate) struct BufferPool {
    size: usize,
    max_idle: usize,
    idle: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    pub(crate) const fn new(size: usize, max_idle: usize) -> Self {
        Self { size, max_idle, idle: Mutex::new(Vec::new()) }
    }

    /// Returns an empty buffer. Its memory may hold old data, but [`Buffer::filled`] returns only
    /// bytes that were filled after this call.
    pub(crate) fn acquire(&'static self) -> Buffer {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = idle.unwrap_or_else(|| vec![0; self.size + ALIGNMENT]);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Buffer { memory, start, filled: 0, pool: self }
    }

    fn release(&self, memory: Vec<u8>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max_idle {
            idle.push(memory);
        }
    }
}

/// A page-aligned buffer. The memory returns to the pool when the buffer and all [`Bytes`] made
/// from it are dropped.
pub(crate) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    filled: usize,
    pool: &'static BufferPool,
}

impl Buffer {
    /// The bytes filled so far.
    pub(crate) fn filled(&self) -> &[u8] {
        self.memory.get(self.start..self.start + self.filled).unwrap_or_default()
    }

    /// The writable rest of the buffer, at most `limit` bytes. Call [`advance`](Self::advance)
    /// after writing.
    pub(crate) fn unfilled(&mut self, limit: usize) -> &mut [u8] {
        let from = self.start + self.filled;
        let len = limit.min(self.pool.size - self.filled);
        self.memory.get_mut(from..from + len).unwrap_or_default()
    }

    /// Marks the first `count` bytes of [`unfilled`](Self::unfilled) as filled.
    pub(crate) fn advance(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.pool.size);
    }

    /// Moves as many bytes as fit from the front of `bytes` into the buffer.
    pub(crate) fn fill_from(&mut self, bytes: &mut Bytes) {
        let target = self.unfilled(bytes.len());
        let count = target.len();
        target.copy_from_slice(&bytes.split_to(count));
        self.advance(count);
    }

    /// Empties the buffer, so that its memory can be filled again.
    pub(crate) fn clear(&mut self) {
        self.filled = 0;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.filled == self.pool.size
    }

    /// Returns the filled bytes without a copy.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.filled()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.release(std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_expose_only_filled_bytes() {
        static POOL: BufferPool = BufferPool::new(8192, 1);
        let mut buffer = POOL.acquire();
        let mut bytes = Bytes::from(vec![7; 9000]);
        buffer.fill_from(&mut bytes);
        assert!(buffer.is_full());
        assert_eq!(bytes.len(), 9000 - 8192);
        let frozen = buffer.freeze();
        assert_eq!(frozen.as_ptr().align_offset(ALIGNMENT), 0);
        drop(frozen);

        let mut again = POOL.acquire();
        assert!(again.filled().is_empty());
        again.fill_from(&mut bytes);
        assert_eq!(again.filled(), &[7; 808]);
    }
}
