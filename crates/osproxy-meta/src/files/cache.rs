//! The cache of stored files.

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

/// A cache of stored files. A row that was read before an eviction may be stale, so it is not
/// inserted after the eviction.
///
/// Other nodes publish invalidations. While this node cannot receive them, the cache is disabled.
/// Entries also expire, in case another node failed to publish an invalidation.
pub(crate) struct FileCache {
    files: Cache<Uid, (Instant, Arc<StoredFile>)>,
    /// Start of link validity (see [`links_from`](Self::links_from)) of files that are not in
    /// `files`.
    links: Cache<Uid, (Instant, i64)>,
    ttl: Duration,
    metrics: CacheMetrics,
    generation: AtomicU64,
    /// Whether this node receives the invalidations of other nodes.
    is_enabled: AtomicBool,
    /// Locked while the generation is compared or changed and the caches are updated, so that both
    /// are one atomic step.
    update_lock: Mutex<()>,
}

impl FileCache {
    pub(crate) fn new(limits: CacheLimits) -> Self {
        Self {
            files: Cache::new(limits.max_entries),
            links: Cache::new(limits.max_entries),
            ttl: limits.max_age,
            metrics: CacheMetrics::default(),
            generation: AtomicU64::new(0),
            is_enabled: AtomicBool::new(true),
            update_lock: Mutex::default(),
        }
    }

    pub(crate) fn get(&self, uid: Uid) -> Option<Arc<StoredFile>> {
        let file = self.lookup(uid);
        self.metrics.count_lookup(file.is_some());
        file
    }

    /// Returns the number of hits and of misses so far.
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
        let (inserted_at, file) = self.files.get(&uid)?;
        (inserted_at.elapsed() < self.ttl).then_some(file)
    }

    /// Start of link validity of a file, in seconds since the Unix epoch: links issued before this
    /// time are revoked. 0 if no links are revoked; `None` if the value is not cached.
    pub(crate) fn links_from(&self, uid: Uid) -> Option<i64> {
        if let Some(file) = self.get(uid) {
            return Some(file.links_valid_from.unwrap_or(0));
        }
        if !self.is_enabled.load(Ordering::Acquire) {
            return None;
        }
        let (inserted_at, from) = self.links.get(&uid)?;
        (inserted_at.elapsed() < self.ttl).then_some(from)
    }

    /// Inserts the start of link validity of a file. `generation` is the generation before the
    /// value was read. Does nothing if any entry has been evicted since then.
    pub(crate) fn insert_links_from(&self, uid: Uid, from: i64, generation: u64) {
        let _update = self.update_lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation() == generation {
            self.links.insert(uid, (Instant::now(), from));
        }
    }

    /// Evicts everything, and enables or disables the cache. Keep the cache disabled while this
    /// node cannot receive the invalidations of other nodes.
    pub(crate) fn set_enabled(&self, is_enabled: bool) {
        let _update = self.update_lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.is_enabled.store(is_enabled, Ordering::Release);
        self.files.clear();
        self.links.clear();
    }

    /// The current generation, which every eviction increments. Get it before reading rows to be
    /// cached.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Inserts a file. `generation` is the generation before the file was read. Does nothing if any
    /// entry has been evicted since then.
    pub(crate) fn insert(&self, file: Arc<StoredFile>, generation: u64) {
        let _update = self.update_lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation() == generation {
            self.files.insert(file.uid, (Instant::now(), file));
        }
    }

    pub(crate) fn evict_file(&self, uid: Uid) {
        let _update = self.update_lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.files.remove(&uid);
        self.links.remove(&uid);
    }

    /// Evicts all files of a blob.
    pub(crate) fn evict_blob(&self, blob_id: i64) {
        let _update = self.update_lock.lock().unwrap_or_else(PoisonError::into_inner);
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
            dimensions: None,
            uid,
            tenant,
            name,
            content_type,
            stored_at: 0,
            links_valid_from: None,
            content,
        })
    }

    fn new_cache(max_age: Duration) -> FileCache {
        FileCache::new(CacheLimits { max_entries: 10, max_age })
    }

    #[test]
    fn an_expired_or_disabled_cache_returns_nothing() {
        let uid = Uid::from_db(1);
        let expiring = new_cache(Duration::ZERO);
        expiring.insert(file(1, 10), expiring.generation());
        assert!(expiring.get(uid).is_none());
        let cache = new_cache(Duration::MAX);
        let before = cache.generation();
        cache.insert(file(1, 10), before);
        cache.set_enabled(false);
        assert!(cache.get(uid).is_none());
        cache.insert(file(1, 10), cache.generation());
        assert!(cache.get(uid).is_none(), "invalidations are not received");
        cache.set_enabled(true);
        cache.insert(file(1, 10), before);
        assert!(cache.get(uid).is_none(), "an invalidation may have been missed");
        cache.insert(file(1, 10), cache.generation());
        assert!(cache.get(uid).is_some());
    }

    #[test]
    fn files_read_before_an_eviction_are_not_inserted() {
        let (cache, uid) = (new_cache(Duration::MAX), Uid::from_db(1));
        let before = cache.generation();
        cache.insert(file(1, 10), before);
        assert!(cache.get(uid).is_some());
        cache.evict_file(uid);
        assert!(cache.get(uid).is_none());
        cache.insert(file(1, 10), before);
        assert!(cache.get(uid).is_none(), "the file was read before it was deleted");
        cache.insert(file(1, 10), cache.generation());
        cache.insert(file(2, 20), cache.generation());
        let before = cache.generation();
        cache.evict_blob(10);
        assert!(cache.get(uid).is_none());
        assert!(cache.get(Uid::from_db(2)).is_some());
        cache.insert(file(1, 10), before);
        assert!(cache.get(uid).is_none(), "the file was read before its bytes moved");
    }
}
