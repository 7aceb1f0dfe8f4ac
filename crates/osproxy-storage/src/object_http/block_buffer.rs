use bytes::Bytes;

use crate::buffer::{Buffer, BufferPool};

/// Block size in bytes. Part sizes are multiples of it.
pub(super) const BLOCK: usize = 256 << 10;

static BLOCKS: BufferPool = BufferPool::new(BLOCK, 16);

/// Content buffered in memory, in blocks of one size: large buffers that are allocated and freed
/// would fragment the heap, and the process would never return that memory.
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

    /// Takes the first `size` bytes, a multiple of [`BLOCK`], if there are more than `size`.
    pub(super) fn take_part(&mut self, size: u64) -> Option<Vec<Bytes>> {
        let blocks = usize::try_from(size / BLOCK as u64).ok()?;
        let has_more = self.full.len() > blocks || (self.full.len() == blocks && self.filling.is_some());
        has_more.then(|| self.full.drain(..blocks).collect())
    }

    /// Takes all bytes.
    pub(super) fn into_all(mut self) -> Vec<Bytes> {
        self.full.extend(self.filling.map(Buffer::freeze));
        self.full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_taken_when_there_are_bytes_behind_them_and_nothing_is_lost() {
        let content: Vec<u8> = (0..=250_u8).cycle().take(3 * BLOCK + 5).collect();
        let (mut kept, mut taken) = (BlockBuffer::default(), Vec::new());
        let part = BLOCK as u64;
        for piece in content.chunks(100_003) {
            kept.push(Bytes::copy_from_slice(piece));
            while let Some(part) = kept.take_part(part) {
                taken.push(part.concat());
            }
        }
        assert!(taken.iter().all(|part| part.len() == BLOCK));
        assert_eq!(taken.len(), 3);
        taken.push(kept.into_all().concat());
        assert!(taken.concat() == content);

        let mut kept = BlockBuffer::default();
        kept.push(Bytes::from(vec![7; BLOCK]));
        assert!(kept.take_part(part).is_none(), "this may be the whole content");
        assert_eq!(kept.into_all().concat().len(), BLOCK);
        assert!(BlockBuffer::default().into_all().is_empty());
    }
}
