//! A cache of small content that is read often.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};

/// Maximum size of cached content, in bytes.
pub(crate) const MAX_CACHED_SIZE: u64 = 64 << 10;
/// Bytes of memory that an entry needs in addition to its content.
const OVERHEAD: u64 = 128;
/// Typical size of cached content, in bytes. Only an estimate of the number of entries depends on
/// it.
const TYPICAL_SIZE: u64 = 8 << 10;

/// Content by blob id. The content of a blob never changes, and a blob id is never used again, so
/// entries never become stale. Whether a client may read a file is checked before.
pub(crate) struct HotContent {
    contents: Cache<i64, Bytes, Weight>,
    max_bytes: u64,
    hits: AtomicU64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<i64, Bytes> for Weight {
    fn weight(&self, _id: &i64, content: &Bytes) -> u64 {
        content.len() as u64 + OVERHEAD
    }
}

impl HotContent {
    /// Creates a cache that needs up to `max_bytes` bytes of memory; 0 turns it off.
    pub(crate) fn new(max_bytes: u64) -> Self {
        let entries = usize::try_from(max_bytes / TYPICAL_SIZE).unwrap_or(usize::MAX);
        Self {
            contents: Cache::with_weighter(entries, max_bytes, Weight),
            max_bytes,
            hits: AtomicU64::new(0),
        }
    }

    /// Whether content of this size, in bytes, is cached.
    pub(crate) fn accepts(&self, size: u64) -> bool {
        size <= MAX_CACHED_SIZE.min(self.max_bytes / 2)
    }

    pub(crate) fn get(&self, blob_id: i64) -> Option<Bytes> {
        let content = self.contents.get(&blob_id)?;
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(content)
    }

    pub(crate) fn insert(&self, blob_id: i64, content: Bytes) {
        self.contents.insert(blob_id, content);
    }

    /// Number of reads that were served from memory.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Bytes of memory in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.contents.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_bounded_and_what_is_read_again_stays() {
        let cache = HotContent::new(1 << 20);
        assert!(cache.accepts(MAX_CACHED_SIZE) && !cache.accepts(MAX_CACHED_SIZE + 1));
        for id in 0..1000 {
            cache.insert(id, vec![0; 10_000].into());
            assert!(cache.get(0).is_some(), "{id}");
            assert!(cache.bytes() <= 1 << 20);
        }
        assert_eq!(cache.hits(), 1000);
        let off = HotContent::new(0);
        assert!(!off.accepts(1));
    }
}
