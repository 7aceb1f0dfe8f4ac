use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use quick_cache::sync::Cache;

use super::StoredFile;
use crate::uid::Uid;

/// How many stored files are remembered, at some 500 bytes each.
const CAPACITY: usize = 10_000;

/// Complete files that were read lately. What was read before something was forgotten is not taken in afterwards, so
/// nothing that is forgotten comes back.
pub(super) struct Remembered {
    files: Cache<Uid, Arc<StoredFile>>,
    generation: AtomicU64,
    /// Held while the generation is compared or changed, and the cache with it.
    changing: Mutex<()>,
}

impl Remembered {
    pub(super) fn new() -> Self {
        Self { files: Cache::new(CAPACITY), generation: AtomicU64::new(0), changing: Mutex::default() }
    }

    pub(super) fn get(&self, uid: Uid) -> Option<Arc<StoredFile>> {
        self.files.get(&uid)
    }

    /// To be asked for before rows are read that may be remembered.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes in what was read since the generation was asked for.
    pub(super) fn insert(&self, file: Arc<StoredFile>, generation: u64) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation() == generation {
            self.files.insert(file.uid, file);
        }
    }

    pub(super) fn forget_file(&self, uid: Uid) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.files.remove(&uid);
    }

    /// Forgets every file of a blob.
    pub(super) fn forget_blob(&self, blob_id: i64) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.files.retain(|_, file| file.content.blob_id != blob_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Content, Layout};

    fn file(uid: i64, blob_id: i64) -> Arc<StoredFile> {
        let content = Content { blob_id, size: 0, layout: Layout::Parts, digests: None, claimed_md5: None };
        let (name, content_type) = (String::new(), String::new());
        Arc::new(StoredFile { uid: Uid::from_recorded(uid), name, content_type, stored_at: 0, content })
    }

    #[test]
    fn what_was_read_before_something_was_forgotten_is_not_taken_in() {
        let (remembered, uid) = (Remembered::new(), Uid::from_recorded(1));
        let before = remembered.generation();
        remembered.insert(file(1, 10), before);
        assert!(remembered.get(uid).is_some());
        remembered.forget_file(uid);
        assert!(remembered.get(uid).is_none());
        remembered.insert(file(1, 10), before);
        assert!(remembered.get(uid).is_none(), "it was read before it was deleted");
        remembered.insert(file(1, 10), remembered.generation());
        remembered.insert(file(2, 20), remembered.generation());
        let before = remembered.generation();
        remembered.forget_blob(10);
        assert!(remembered.get(uid).is_none());
        assert!(remembered.get(Uid::from_recorded(2)).is_some());
        remembered.insert(file(1, 10), before);
        assert!(remembered.get(uid).is_none(), "it was read before its bytes moved");
    }
}
