//! The cache of complete files.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use osproxy_types::uid::Uid;
use quick_cache::sync::Cache;

use crate::{CacheLimits, StoredFile, db::metrics::CacheMetrics};

/// A cache of complete files. An entry read before an eviction is not inserted after it, so an
/// evicted entry never comes back.
///
/// Other nodes publish invalidations. While this node cannot receive them, the cache is disabled;
/// in case another node failed to publish one, entries expire.
pub(crate) struct FileCache {
    files: Cache<Uid, (Instant, Arc<StoredFile>)>,
    /// Start of link validity of files that are not cached as a whole.
    links: Cache<Uid, (Instant, i64)>,
    ttl: Duration,
    metrics: CacheMetrics,
    generation: AtomicU64,
    /// Whether invalidations by other nodes are received.
    is_enabled: AtomicBool,
    /// Held while the generation is compared or changed together with the caches.
    update_lock: Mutex<()>,
}

impl FileCache {
    pub(crate) fn new(memory: CacheLimits) -> Self {
        Self {
            files: Cache::new(memory.max_entries),
            links: Cache::new(memory.max_entries),
            ttl: memory.max_age,
            metrics: CacheMetrics::default(),
            generation: AtomicU64::new(0),
            is_enabled: AtomicBool::new(true),
            update_lock: Mutex::default(),
        }
    }

    pub(crate) fn get(&self, uid: Uid) -> Option<Arc<StoredFile>> {
        let found = self.lookup(uid);
        self.metrics.count_lookup(found.is_some());
        found
    }

    /// Number of hits and misses so far.
    pub(crate) fn lookups(&self) -> (u64, u64) {
        self.metrics.lookups()
    }

    /// Number of files in the cache.
    pub(crate) fn len(&self) -> u64 {
        self.files.len() as u64
    }

    fn lookup(&self, uid: Uid) -> Option<Arc<StoredFile>> {
        if !self.is_enabled.load(Ordering::Acquire) {
            return None;
        }
        let (since, file) = self.files.get(&uid)?;
        (since.elapsed() < self.ttl).then_some(file)
    }

    /// Start of link validity of a file, in seconds since the Unix epoch: links issued before are
    /// revoked. 0 if none are revoked; `None` if not cached.
    pub(crate) fn links_from(&self, uid: Uid) -> Option<i64> {
        if let Some(file) = self.get(uid) {
            return Some(file.links_valid_from.unwrap_or(0));
        }
        if !self.is_enabled.load(Ordering::Acquire) {
            return None;
        }
        let (since, from) = self.links.get(&uid)?;
        (since.elapsed() < self.ttl).then_some(from)
    }

    /// Inserts a value that was read after `generation` was obtained. Does nothing if something was
    /// evicted since then.
    pub(crate) fn insert_links_from(&self, uid: Uid, from: i64, generation: u64) {
        let _changing = self.update_lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation() == generation {
            self.links.insert(uid, (Instant::now(), from));
        }
    }

    /// Evicts everything, and enables or disables the cache. Keep it disabled while invalidations
    /// by other nodes cannot be received.
    pub(crate) fn set_enabled(&self, others_are_heard: bool) {
        let _changing = self.update_lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.is_enabled.store(others_are_heard, Ordering::Release);
        self.files.clear();
        self.links.clear();
    }

    /// The current generation. Get it before reading rows to be cached.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Inserts a file that was read after `generation` was obtained. Does nothing if something was
    /// evicted since then.
    pub(crate) fn insert(&self, file: Arc<StoredFile>, generation: u64) {
        let _changing = self.update_lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation() == generation {
            self.files.insert(file.uid, (Instant::now(), file));
        }
    }

    pub(crate) fn evict_file(&self, uid: Uid) {
        let _changing = self.update_lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.files.remove(&uid);
        self.links.remove(&uid);
    }

    /// Evicts all files of a blob.
    pub(crate) fn evict_blob(&self, blob_id: i64) {
        let _changing = self.update_lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.files.retain(|_, (_, file)| file.content.blob_id != blob_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ContentLayout, StoredContent};
    use osproxy_types::tenant::Tenant;

    fn file(uid: i64, blob_id: i64) -> Arc<StoredFile> {
        let layout = ContentLayout::Parts;
        let (store, digests, claimed_md5) = (String::new(), None, None);
        let content = StoredContent { blob_id, size: 0, store, layout, digests, claimed_md5, is_utf8: false };
        let (name, content_type) = (String::new(), String::new());
        let (uid, tenant) = (Uid::from_db(uid), Tenant::default());
        Arc::new(StoredFile {
            uid,
            tenant,
            name,
            content_type,
            stored_at: 0,
            links_valid_from: None,
            content,
        })
    }

    fn remembered(time: Duration) -> FileCache {
        FileCache::new(CacheLimits { max_entries: 10, max_age: time })
    }

    #[test]
    fn nothing_is_remembered_for_long_or_while_others_are_not_heard() {
        let uid = Uid::from_db(1);
        let forgetful = remembered(Duration::ZERO);
        forgetful.insert(file(1, 10), forgetful.generation());
        assert!(forgetful.get(uid).is_none());
        let remembered = remembered(Duration::MAX);
        let before = remembered.generation();
        remembered.insert(file(1, 10), before);
        remembered.set_enabled(false);
        assert!(remembered.get(uid).is_none());
        remembered.insert(file(1, 10), remembered.generation());
        assert!(remembered.get(uid).is_none(), "invalidations are not received");
        remembered.set_enabled(true);
        remembered.insert(file(1, 10), before);
        assert!(remembered.get(uid).is_none(), "an invalidation may have been missed");
        remembered.insert(file(1, 10), remembered.generation());
        assert!(remembered.get(uid).is_some());
    }

    #[test]
    fn what_was_read_before_something_was_forgotten_is_not_taken_in() {
        let (remembered, uid) = (remembered(Duration::MAX), Uid::from_db(1));
        let before = remembered.generation();
        remembered.insert(file(1, 10), before);
        assert!(remembered.get(uid).is_some());
        remembered.evict_file(uid);
        assert!(remembered.get(uid).is_none());
        remembered.insert(file(1, 10), before);
        assert!(remembered.get(uid).is_none(), "it was read before it was deleted");
        remembered.insert(file(1, 10), remembered.generation());
        remembered.insert(file(2, 20), remembered.generation());
        let before = remembered.generation();
        remembered.evict_blob(10);
        assert!(remembered.get(uid).is_none());
        assert!(remembered.get(Uid::from_db(2)).is_some());
        remembered.insert(file(1, 10), before);
        assert!(remembered.get(uid).is_none(), "it was read before its bytes moved");
    }
}
