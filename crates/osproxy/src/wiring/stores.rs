//! Opens the configured stores, and wraps them in the layers that they need.

use std::{sync::Arc, time::Duration};

use osproxy_core::{
    ReadRateLimit, StoreEntry, Stores,
    startup::{StartupError, context, lock_error},
};
use osproxy_meta::DatabaseLocation;
use osproxy_storage::{
    Backend, BufferBudget, Diagnosis,
    backends::Local,
    layers::{Layered, Limit, MetricsLayer, Retry, Timeout},
};
use osproxy_types::error_chain;

use super::explain_store_error;
use crate::config::{Config, StoreKind};

/// Opens every configured store. With `stores.create_buckets`, creates missing buckets. Fails if a
/// store cannot be opened, or if the store for new files cannot be used. If another remote store
/// cannot be used, logs a warning.
pub async fn open(
    config: &Config,
    database: &DatabaseLocation,
    buffers: &BufferBudget,
) -> Result<Stores, StartupError> {
    let mut places = Vec::new();
    for kind in config.stores() {
        let place = match kind {
            StoreKind::Local => open_local(config, database).await?,
            remote => {
                let store = config
                    .open_store(remote, Some(buffers.clone()))
                    .map_err(context(format!("cannot use {remote}")))?;
                let place = remote_entry(config, store);
                match place.store.prepare(config.stores.create_buckets).await {
                    Err(problem) if places.is_empty() => {
                        return Err(store_startup_error(config, remote, &problem));
                    }
                    // This store has only older files, and may recover.
                    Err(problem) => tracing::warn!("{}", store_startup_error(config, remote, &problem)),
                    Ok(()) => {}
                }
                place
            }
        };
        places.push(place);
    }
    Ok(stores(config, places, ReadRateLimit::new(0)))
}

/// Opens every configured store to read objects, even while a service uses it. `read_rate` limits
/// how fast content is read to compute digests.
pub async fn open_to_read(
    config: &Config,
    database: &DatabaseLocation,
    read_rate: ReadRateLimit,
) -> Result<Stores, StartupError> {
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
    Ok(stores(config, places, read_rate))
}

fn stores(config: &Config, places: Vec<StoreEntry>, read_rate: ReadRateLimit) -> Stores {
    let are_apart = config.is_clustered() && places.iter().any(|place| !place.is_shared);
    Stores::new(places, are_apart, read_rate)
}

/// The startup error for a store that cannot be used.
fn store_startup_error(config: &Config, kind: StoreKind, problem: &osproxy_storage::Error) -> StartupError {
    let advice = explain_store_error(config, kind, Diagnosis::of(problem));
    StartupError::msg(format!("cannot use {kind}: {advice} ({})", error_chain(problem)))
}

async fn open_local(config: &Config, database: &DatabaseLocation) -> Result<StoreEntry, StartupError> {
    let root = config.object_folder();
    let what = format!("the object folder {}", root.display());
    let store = Local::open(&root, config.local.fsync).await;
    let mut store = store.map_err(|error| lock_error(&what, error))?;
    store.start_packs(config.local.pack_below).map_err(context(format!("cannot use {what}")))?;
    store.set_min_free_space(config.local.min_free_space);
    Ok(local_entry(store, database))
}

fn local_entry(store: Local, database: &DatabaseLocation) -> StoreEntry {
    // With a database file, there is only one object folder. With a database server, the object
    // folder of each node needs its own name.
    let name = match database {
        DatabaseLocation::File(_) => store.name().to_owned(),
        DatabaseLocation::Server(_) => Stores::node_local_name(store.name(), store.id()),
    };
    // Local disks need only the metrics layer: retries do not help, and a limit on open files is
    // not necessary.
    let metrics = MetricsLayer::default();
    let counters = metrics.counters.clone();
    let store: Arc<dyn Backend> = Arc::new(Layered::new(metrics, Arc::new(store)));
    StoreEntry { name, store, counters, is_shared: false, is_disk: true }
}

/// Wraps a remote store in its layers: timeouts, metrics, retries, and a concurrency limit.
fn remote_entry(config: &Config, store: Arc<dyn Backend>) -> StoreEntry {
    let section = &config.stores;
    let backend = store.name();
    let timeout = Timeout {
        backend,
        operation: Duration::from_secs(section.timeout),
        complete: Duration::from_secs(section.timeout.saturating_mul(10)),
    };
    let metrics = MetricsLayer::default();
    let counters = metrics.counters.clone();
    let transfers = usize::try_from(section.max_transfers).unwrap_or(usize::MAX >> 3);
    let limit = Limit::new(backend, transfers.min(usize::MAX >> 3), Duration::from_secs(section.timeout));
    let store: Arc<dyn Backend> = Arc::new(Layered::new(timeout, store));
    let store: Arc<dyn Backend> = Arc::new(Layered::new(metrics, store));
    let store: Arc<dyn Backend> = Arc::new(Layered::new(Retry { attempts: section.max_attempts }, store));
    let store: Arc<dyn Backend> = Arc::new(Layered::new(limit, store));
    StoreEntry { name: backend.to_owned(), store, counters, is_shared: config.is_clustered(), is_disk: false }
}
