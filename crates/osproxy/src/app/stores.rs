//! The stores that a node has, by the names in rows.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use osproxy_storage::{
    Backend, BufferBudget, Diagnosis, Multipart,
    backends::Local,
    layers::{Counters, Layered, Limit, Metrics, Retry, Timeout},
};
use osproxy_types::error_chain;

use super::{ReadRateLimit, StartupError, context, diagnosis::explain_store_error, lock_error};
use crate::{
    Error, Result,
    config::{Config, StoreKind},
    meta::{DatabaseLocation, LocalStore, PartSizeLimits},
    metrics::MetricsPage,
};

/// All stores of this node. New files go to the first.
pub struct Stores {
    entries: Vec<StoreEntry>,
    has_node_local: bool,
    /// Rate limiter for reading content to compute digests.
    pub(super) read_rate: ReadRateLimit,
}

struct StoreEntry {
    name: String,
    store: Arc<dyn Backend>,
    counters: Arc<Counters>,
    is_shared: bool,
    is_disk: bool,
}

impl Stores {
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

    /// Whether this node has a store.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Whether other nodes can use a store too.
    pub fn is_shared(&self, name: &str) -> bool {
        self.find(name).is_some_and(|place| place.is_shared)
    }

    /// Whether a store is remote.
    pub fn is_remote(&self, name: &str) -> bool {
        self.find(name).is_some_and(|place| !place.is_disk)
    }

    /// Whether some objects of a cluster are in stores that only one node has.
    pub fn has_node_local(&self) -> bool {
        self.has_node_local
    }

    /// Returns a store. Fails if this node does not have it.
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

    /// Returns the multipart interface of a store. Fails if it has none.
    pub fn multipart(&self, name: &str) -> Result<&dyn Multipart> {
        let multipart = self.get(name)?.multipart();
        multipart.ok_or_else(|| Error::internal("the store has no multipart uploads"))
    }

    /// Operation counters of the remote stores.
    pub fn counters(&self) -> impl Iterator<Item = (&str, &Counters)> {
        let remote = self.entries.iter().filter(|place| !place.is_disk);
        remote.map(|place| (place.name.as_str(), &*place.counters))
    }

    /// Exports the operation counters of all stores.
    pub(super) fn export(&self, page: &mut MetricsPage) {
        let label = |place: &StoreEntry| vec![("backend", place.store.name().to_owned())];
        let operations = || {
            self.entries.iter().flat_map(|place| {
                place.counters.operations().map(move |(operation, counters)| {
                    let mut labels = label(place);
                    labels.push(("operation", operation.name().to_owned()));
                    (labels, counters)
                })
            })
        };
        page.histogram(
            "store_operation_seconds",
            "Duration of store operations; each retry counts separately",
            operations().map(|(labels, counters)| (labels, counters.durations.snapshot())),
        );
        let failures =
            operations().map(|(labels, counters)| (labels, counters.failures.load(Ordering::Relaxed)));
        page.counter(
            "store_errors",
            "Failed store operations, excluding objects that were not found",
            failures,
        );
        let of_stores = |counter: fn(&Counters) -> u64| {
            self.entries.iter().map(move |place| (label(place), counter(&place.counters)))
        };
        page.counter(
            "store_broken_reads",
            "Reads of objects that ended too early",
            of_stores(Counters::failed_readers),
        );
        page.counter(
            "store_read_bytes",
            "Bytes read from a store",
            of_stores(|counters| counters.read_bytes.load(Ordering::Relaxed)),
        );
        page.counter(
            "store_written_bytes",
            "Bytes written to a store",
            of_stores(|counters| counters.written_bytes.load(Ordering::Relaxed)),
        );
    }

    /// Returns the name and error of each remote store that fails.
    pub(super) async fn problems(&self) -> Vec<(String, String)> {
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

    /// Opens every configured store, and creates the buckets of remote ones if that is configured.
    /// Fails if the store for new files cannot be used; others are logged.
    pub(super) async fn open(
        config: &Config,
        database: &DatabaseLocation,
        buffers: &BufferBudget,
    ) -> std::result::Result<Self, StartupError> {
        let mut places = Vec::new();
        for kind in config.stores() {
            let place = match kind {
                StoreKind::Local => open_local(config, database).await?,
                remote => {
                    let store = config
                        .open_store(remote, Some(buffers.clone()))
                        .map_err(context(format!("cannot use {remote}")))?;
                    let place = remote_entry(config, store);
                    match place.store.prepare(config.stores.make_buckets).await {
                        Err(problem) if places.is_empty() => {
                            return Err(store_startup_error(config, remote, &problem));
                        }
                        // It has older files only, and may recover.
                        Err(problem) => tracing::warn!("{}", store_startup_error(config, remote, &problem)),
                        Ok(()) => {}
                    }
                    place
                }
            };
            places.push(place);
        }
        Ok(Self::from_entries(config, places, ReadRateLimit::new(0)))
    }

    /// Opens every configured store for reading; a service may be running. `read_rate` limits how
    /// fast content is read to compute digests.
    pub async fn open_to_read(
        config: &Config,
        database: &DatabaseLocation,
        read_rate: ReadRateLimit,
    ) -> std::result::Result<Self, StartupError> {
        let mut places = Vec::new();
        for kind in config.stores() {
            places.push(match kind {
                StoreKind::Local => {
                    let root = config.object_folder();
                    let store = Local::open_to_read(&root).await;
                    let store = store.map_err(context(format!(
                        "cannot read the object folder {}; check --data-dir",
                        root.display()
                    )))?;
                    local_entry(store, database)
                }
                remote => {
                    let store =
                        config.open_store(remote, None).map_err(context(format!("cannot use {remote}")))?;
                    remote_entry(config, store)
                }
            });
        }
        Ok(Self::from_entries(config, places, read_rate))
    }

    fn from_entries(config: &Config, places: Vec<StoreEntry>, pace: ReadRateLimit) -> Self {
        let are_apart = config.is_clustered() && places.iter().any(|place| !place.is_shared);
        Self { entries: places, has_node_local: are_apart, read_rate: pace }
    }
}

/// The startup error for a store that cannot be used.
fn store_startup_error(config: &Config, kind: StoreKind, problem: &osproxy_storage::Error) -> StartupError {
    let advice = explain_store_error(config, kind, Diagnosis::of(problem));
    StartupError::msg(format!("cannot use {kind}: {advice} ({})", error_chain(problem)))
}

async fn open_local(
    config: &Config,
    database: &DatabaseLocation,
) -> std::result::Result<StoreEntry, StartupError> {
    let root = config.object_folder();
    let what = format!("the object folder {}", root.display());
    let store = Local::open(&root, config.local.fsync).await;
    let store = store.map_err(|error| lock_error(&what, error))?;
    store.keep_free(config.local.keep_free);
    Ok(local_entry(store, database))
}

fn local_entry(store: Local, database: &DatabaseLocation) -> StoreEntry {
    // With a database file there is one object folder. On a database server, the folder of each
    // node needs its own name.
    let name = match database {
        DatabaseLocation::File(_) => store.name().to_owned(),
        DatabaseLocation::Server(_) => format!("{}:{}", store.name(), store.id()),
    };
    // Local disks need metrics only: retries do not help, and file descriptors are too cheap to
    // limit.
    let metrics = Metrics::default();
    let counters = metrics.counters.clone();
    let store: Arc<dyn Backend> = Arc::new(Layered::new(metrics, Arc::new(store)));
    StoreEntry { name, store, counters, is_shared: false, is_disk: true }
}

/// Wraps a remote store in the layers that it needs: timeouts, metrics, retries, a concurrency
/// limit.
fn remote_entry(config: &Config, store: Arc<dyn Backend>) -> StoreEntry {
    let section = &config.stores;
    let backend = store.name();
    let timeout = Timeout {
        backend,
        operation: Duration::from_secs(section.timeout),
        complete: Duration::from_secs(section.timeout.saturating_mul(10)),
    };
    let metrics = Metrics::default();
    let counters = metrics.counters.clone();
    let transfers = usize::try_from(section.max_transfers).unwrap_or(usize::MAX >> 3);
    let limit = Limit::new(backend, transfers.min(usize::MAX >> 3), Duration::from_secs(section.timeout));
    let store: Arc<dyn Backend> = Arc::new(Layered::new(timeout, store));
    let store: Arc<dyn Backend> = Arc::new(Layered::new(metrics, store));
    let store: Arc<dyn Backend> = Arc::new(Layered::new(Retry { attempts: section.attempts }, store));
    let store: Arc<dyn Backend> = Arc::new(Layered::new(limit, store));
    StoreEntry { name: backend.to_owned(), store, counters, is_shared: config.is_clustered(), is_disk: false }
}
