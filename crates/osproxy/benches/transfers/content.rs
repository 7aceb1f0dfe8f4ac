//! Content to send. It differs every time, because osproxy stores identical content only once.

use std::iter;

use md5::{Digest, Md5};

const PAGE: usize = 4096;
/// Number of bytes to hash at once: few enough to fit into a core's cache.
const SLICE: usize = 256 * 1024;

/// Page-aligned memory, which the kernel copies with much less processor time.
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![0; len + PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        Self { memory, start, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.start + self.len).unwrap_or_default()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

/// Pseudo-random bytes, with any number of variants. Variants share all bytes after the first page.
pub(crate) struct Content(Aligned);

impl Content {
    pub(crate) fn new(len: usize) -> Self {
        let mut content = Aligned::new(len);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for chunk in content.bytes_mut().chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let bytes = state.to_le_bytes();
            chunk.copy_from_slice(bytes.get(..chunk.len()).unwrap_or_default());
        }
        Self(content)
    }

    /// The content with `number` in its first bytes.
    pub(crate) fn variant(&self, number: usize) -> Variant<'_> {
        // The first bytes are a whole page, so that the rest stays aligned.
        let (first, rest) = self.0.bytes().split_at(PAGE.min(self.0.len));
        let mut first = first.to_vec();
        for (byte, changed) in first.iter_mut().zip(number.to_le_bytes()) {
            *byte ^= changed;
        }
        Variant { first, rest }
    }
}

/// Unique content, or a part of it.
pub(crate) struct Variant<'a> {
    first: Vec<u8>,
    rest: &'a [u8],
}

impl<'a> Variant<'a> {
    /// Splits the content into parts of `size` bytes. `size` must be at least a page.
    pub(crate) fn parts(&self, size: usize) -> Vec<Self> {
        let (rest, others) = self.rest.split_at(size.saturating_sub(self.first.len()).min(self.rest.len()));
        let others = others.chunks(size).map(|part| {
            let (first, rest) = part.split_at(PAGE.min(part.len()));
            Self { first: first.to_vec(), rest }
        });
        iter::once(Self { first: self.first.clone(), rest }).chain(others).collect()
    }

    pub(crate) fn first(&self) -> &[u8] {
        &self.first
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    /// Hashes the content with BLAKE3 on one core, in chunks as a server would.
    pub(crate) fn blake3(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.first);
        self.rest.chunks(SLICE).for_each(|slice| _ = hasher.update(slice));
        hasher.finalize()
    }

    /// The md5 in hexadecimal.
    pub(crate) fn md5(&self) -> String {
        let mut digester = Digester::default();
        digester.update(&self.first);
        self.rest.chunks(SLICE).for_each(|slice| digester.update(slice));
        digester.finish()
    }
}

#[derive(Default)]
pub(crate) struct Digester(Md5);

impl Digester {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        Digest::update(&mut self.0, bytes);
    }

    pub(crate) fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}
