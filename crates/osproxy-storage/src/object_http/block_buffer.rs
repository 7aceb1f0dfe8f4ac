//! Content buffered in memory in blocks of one size.

use bytes::Bytes;

use crate::buffer::{Buffer, BufferPool};

/// Block size, in bytes. All part sizes are multiples of the block size.
pub(super) const BLOCK: usize = 256 << 10;

static BLOCKS: BufferPool = BufferPool::new(BLOCK, 16);

/// Buffers content in memory, in blocks of one size. Allocating large buffers instead would
/// fragment the heap, so that the process could not return their memory to the system.
#[derive(Default)]
pub(super) struct BlockBuffer {
    full: Vec<Bytes>,
    filling: Option<Buffer>,
}

impl BlockBuffer {
    pub(super) fn push(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let buffer = self.filling.get_or_insert_with(|| BLOCKS.acquire());
            buffer.fill_from(&mut bytes);
            if buffer.is_full()
                && let Some(full) = self.filling.take()
            {
                self.full.push(full.freeze());
            }
        }
    }

    /// Takes the first `size` bytes if more than `size` bytes are buffered. `size` must be a
    /// multiple of [`BLOCK`].
    pub(super) fn take_part(&mut self, size: u64) -> Option<Vec<Bytes>> {
        let blocks = usize::try_from(size / BLOCK as u64).ok()?;
        let has_more = self.full.len() > blocks || (self.full.len() == blocks && self.filling.is_some());
        has_more.then(|| self.full.drain(..blocks).collect())
    }

    pub(super) fn into_all(mut self) -> Vec<Bytes> {
        self.full.extend(self.filling.map(Buffer::freeze));
        self.full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_taken_once_more_bytes_follow() {
        let content: Vec<u8> = (0..=250_u8).cycle().take(3 * BLOCK + 5).collect();
        let (mut buffered, mut parts) = (BlockBuffer::default(), Vec::new());
        let part = BLOCK as u64;
        for chunk in content.chunks(100_003) {
            buffered.push(Bytes::copy_from_slice(chunk));
            while let Some(part) = buffered.take_part(part) {
                parts.push(part.concat());
            }
        }
        assert!(parts.iter().all(|part| part.len() == BLOCK));
        assert_eq!(parts.len(), 3);
        parts.push(buffered.into_all().concat());
        assert!(parts.concat() == content);

        let mut buffered = BlockBuffer::default();
        buffered.push(Bytes::from(vec![7; BLOCK]));
        assert!(buffered.take_part(part).is_none(), "this may be the whole content");
        assert_eq!(buffered.into_all().concat().len(), BLOCK);
        assert!(BlockBuffer::default().into_all().is_empty());
    }
}
