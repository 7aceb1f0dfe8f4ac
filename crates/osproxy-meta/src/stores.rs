//! The stores that this node can access, and the keys of new objects in them.

use osproxy_storage::{Category, Key, extension};

use crate::{db::clock::Clock, processing::ProcessingPolicy};

/// The name of this node in the database, and the stores whose objects it can access.
#[derive(Clone, Debug, Default)]
pub struct NodeStores {
    /// Unique name of this node.
    pub node: String,
    /// The accessible stores. New files go to the first one.
    pub stores: Vec<LocalStore>,
    /// In a preallocated file that grows with its parts, each slot begins before this offset, in
    /// bytes.
    pub max_slot_start: u64,
    /// Which steps of processing are configured.
    pub processing: ProcessingPolicy,
    pub(crate) clock: Clock,
}

/// Default of [`NodeStores::max_slot_start`]. All usual file systems support files of this size.
const MAX_SLOT_START: u64 = 8 << 40;

/// A store whose objects this node can access.
#[derive(Clone, Debug)]
pub struct LocalStore {
    /// Name in the database, at most 16 bytes.
    pub name: String,
    /// Part size limits of the store's own multipart uploads or preallocated files; `None` if the
    /// store has neither.
    pub part_sizes: Option<PartSizeLimits>,
    /// Whether the objects of a category are spread over shard folders, such as `video-3f`.
    pub has_shards: bool,
}

/// Part size limits, in bytes, of a store that assembles parts itself.
#[derive(Clone, Copy, Debug)]
pub struct PartSizeLimits {
    /// Minimum size of every part but the last.
    pub min: u64,
    /// Maximum size of any part.
    pub max: u64,
    /// Whether parts are slots of a preallocated file. All slots of a file have the same size.
    pub preallocated: bool,
}

impl NodeStores {
    /// Describes the node named `node`. New files go to the first of `stores`.
    pub fn new(node: String, stores: Vec<LocalStore>) -> Self {
        Self {
            node,
            stores,
            max_slot_start: MAX_SLOT_START,
            processing: ProcessingPolicy::default(),
            clock: Clock::default(),
        }
    }

    pub(crate) fn store(&self, name: &str) -> Option<&LocalStore> {
        self.stores.iter().find(|store| store.name == name)
    }

    /// Whether the multipart uploads of this store are preallocated files.
    pub(crate) fn is_preallocated(&self, name: &str) -> bool {
        self.store(name).and_then(|store| store.part_sizes).is_some_and(|sizes| sizes.preallocated)
    }

    pub(crate) fn store_names(&self) -> impl Iterator<Item = &str> {
        self.stores.iter().map(|store| store.name.as_str())
    }

    pub(crate) fn default_store(&self) -> &str {
        self.store_names().next().unwrap_or_default()
    }

    /// Returns the key for a new object in `store` that holds a whole blob. The category and the
    /// extension of the key come from the file name `name`.
    pub(crate) fn whole_key(&self, store: &str, name: &str, blob_id: i64) -> Key {
        let key = Key::whole(Category::of_object(name), blob_id, extension(name).as_deref());
        self.shard_key(store, key, blob_id)
    }

    /// Returns the key for a new object in `store` that holds one part of a blob; see
    /// [`Key::part`].
    pub(crate) fn part_key(
        &self,
        store: &str,
        name: &str,
        blob_id: i64,
        number: u32,
        write_id: Option<i64>,
    ) -> Key {
        self.shard_key(store, Key::part(Category::of_object(name), blob_id, number, write_id), blob_id)
    }

    fn shard_key(&self, store: &str, key: Key, blob_id: i64) -> Key {
        if self.store(store).is_some_and(|store| store.has_shards) { key.in_shard(blob_id) } else { key }
    }
}
