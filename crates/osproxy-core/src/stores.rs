//! The stores of a node. Rows refer to a store by its name.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use osproxy_meta::{LocalStore, PartSizeLimits};
use osproxy_storage::{Backend, Diagnosis, Multipart, Packs, layers::Counters};
use osproxy_types::error_chain;
use prometheus_client::{encoding::DescriptorEncoder, metrics::counter::ConstCounter};

use crate::{
    Error, ReadRateLimit, Result,
    metrics::encode::{ConstHistogram, EncodeMetrics},
};

/// All stores of this node. New files go to the first store.
pub struct Stores {
    entries: Vec<StoreEntry>,
    has_node_local: bool,
    /// Rate limiter for reading content to compute digests.
    pub(crate) read_rate: ReadRateLimit,
}

/// An open store.
pub struct StoreEntry {
    /// Name of the store, as recorded in rows.
    pub name: String,
    /// The store, with all its layers.
    pub store: Arc<dyn Backend>,
    /// Counters of the operations on the store.
    pub counters: Arc<Counters>,
    /// Whether other nodes can use the store too.
    pub is_shared: bool,
    /// Whether the store is on a disk of this machine.
    pub is_disk: bool,
}

impl Stores {
    /// Creates the stores of a node; the store for new files comes first. `has_node_local` is
    /// `true` if this node belongs to a cluster and has a store that other nodes cannot access.
    pub fn new(entries: Vec<StoreEntry>, has_node_local: bool, read_rate: ReadRateLimit) -> Self {
        Self { entries, has_node_local, read_rate }
    }

    /// Returns the name of a store on a local disk of a node in a cluster. `id` identifies the
    /// disk.
    pub fn node_local_name(kind: &str, id: &str) -> String {
        format!("{kind}:{id}")
    }

    /// Whether `name` is the name of a store that only one node has. If this node does not have the
    /// store, another node may have it. Remote stores belong to no node: requests for a remote
    /// store are never forwarded.
    pub fn may_be_elsewhere(name: &str) -> bool {
        name.contains(':')
    }

    /// Names of all stores, with the store for new files first.
    pub fn names(&self) -> Vec<String> {
        self.entries.iter().map(|place| place.name.clone()).collect()
    }

    /// Name of the store for new files.
    pub fn name_for_new(&self) -> &str {
        self.entries.first().map_or("", |place| &place.name)
    }

    /// Describes the stores to the metadata layer.
    pub fn local_stores(&self) -> Vec<LocalStore> {
        let here = |place: &StoreEntry| LocalStore {
            name: place.name.clone(),
            part_sizes: place.store.multipart().map(|parts| PartSizeLimits {
                min: parts.min_part_size(),
                max: parts.max_part_size(),
                preallocated: parts.is_preallocated(),
            }),
            has_shards: place.is_disk,
        };
        self.entries.iter().map(here).collect()
    }

    /// Whether this node has the store with this name.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Whether this node has the store, and other nodes can use it too.
    pub fn is_shared(&self, name: &str) -> bool {
        self.find(name).is_some_and(|place| place.is_shared)
    }

    /// Whether this node has the store, and the store is remote.
    pub fn is_remote(&self, name: &str) -> bool {
        self.find(name).is_some_and(|place| !place.is_disk)
    }

    /// Whether this node belongs to a cluster and has a store that other nodes cannot access.
    pub fn has_node_local(&self) -> bool {
        self.has_node_local
    }

    /// Returns a store. Fails with `NodeUnavailable` if this node does not have it.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Backend>> {
        self.find(name).map(|place| &place.store).ok_or_else(|| Error::store_unreachable(name))
    }

    /// Whether some store must know the length of a part before the part is written.
    pub fn needs_part_lengths(&self) -> bool {
        self.entries.iter().filter_map(|place| place.store.multipart()).any(|parts| !parts.is_preallocated())
    }

    /// Minimum part size in the store for new files, in bytes.
    pub fn min_part_size(&self) -> u64 {
        let parts = self.entries.first().and_then(|place| place.store.multipart());
        parts.map_or(0, Multipart::min_part_size)
    }

    /// Whether the store for new files preallocates files.
    pub fn preallocates(&self) -> bool {
        let parts = self.entries.first().and_then(|place| place.store.multipart());
        parts.is_some_and(Multipart::is_preallocated)
    }

    /// Maximum size of content that goes to a pack of the store for new files, in bytes; 0 if the
    /// store has no packs.
    pub fn max_packed_size(&self) -> u64 {
        self.entries.first().and_then(|place| place.store.packs()).map_or(0, Packs::max_size)
    }

    /// Returns the packs of a store. Fails if the store has none, or this node does not have the
    /// store.
    pub fn packs(&self, name: &str) -> Result<&dyn Packs> {
        let unsupported = || Error::internal(format!("the store {name} has no packs"));
        self.get(name)?.packs().ok_or_else(unsupported)
    }

    /// Returns the multipart interface of a store. Fails if the store has none, or this node does
    /// not have the store.
    pub fn multipart(&self, name: &str) -> Result<&dyn Multipart> {
        let multipart = self.get(name)?.multipart();
        let unsupported = || Error::internal(format!("the store {name} does not support multipart uploads"));
        multipart.ok_or_else(unsupported)
    }

    /// Operation counters of the remote stores.
    pub fn counters(&self) -> impl Iterator<Item = (&str, &Counters)> {
        let remote = self.entries.iter().filter(|place| !place.is_disk);
        remote.map(|place| (place.name.as_str(), &*place.counters))
    }

    /// Encodes the operation counters of all stores.
    pub(crate) fn encode_metrics(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let operations = || {
            self.entries.iter().flat_map(|entry| {
                entry.counters.operations().map(|(operation, counters)| {
                    ([("backend", entry.store.name()), ("operation", operation.name())], counters)
                })
            })
        };
        encoder.encode_samples(
            "store_operation_seconds",
            "Duration of store operations; each retry counts separately",
            operations().map(|(labels, counters)| (labels, ConstHistogram(counters.durations.snapshot()))),
        )?;
        encoder.encode_samples(
            "store_errors",
            "Failed store operations, excluding objects that were not found",
            operations().map(|(labels, counters)| {
                (labels, ConstCounter::new(counters.failures.load(Ordering::Relaxed)))
            }),
        )?;
        let of_stores = |counter: fn(&Counters) -> u64| {
            let entries = self.entries.iter();
            entries.map(move |entry| {
                ([("backend", entry.store.name())], ConstCounter::new(counter(&entry.counters)))
            })
        };
        encoder.encode_samples(
            "store_broken_reads",
            "Object reads that ended too early",
            of_stores(Counters::failed_readers),
        )?;
        encoder.encode_samples(
            "store_read_bytes",
            "Bytes read from a store",
            of_stores(|counters| counters.read_bytes.load(Ordering::Relaxed)),
        )?;
        encoder.encode_samples(
            "store_written_bytes",
            "Bytes written to a store",
            of_stores(|counters| counters.written_bytes.load(Ordering::Relaxed)),
        )
    }

    /// Returns the name and error of each remote store that fails.
    pub(crate) async fn problems(&self) -> Vec<(String, String)> {
        let remote = self.entries.iter().filter(|place| !place.is_disk);
        let asking = remote.map(async |place| {
            let error = place.store.prepare(false).await.err()?;
            let why = Diagnosis::of(&error);
            Some((place.name.clone(), format!("fails ({why:?}): {}", error_chain(&error))))
        });
        futures_util::future::join_all(asking).await.into_iter().flatten().collect()
    }

    fn find(&self, name: &str) -> Option<&StoreEntry> {
        self.entries.iter().find(|place| place.name == name)
    }
}
