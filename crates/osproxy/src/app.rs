//! [`App`], the state of a running node that all operations share. No transport code.

mod auth;
mod background;
mod backpressure;
mod cleanup;
mod content_reader;
mod cursor;
mod diagnosis;
mod health;
mod idempotency;
mod inspect;
mod key_rotation;
mod link_constraints;
mod metadata;
mod metrics_export;
mod multipart;
mod node_state;
mod receive;
mod request_context;
mod reservations;
mod signed_urls;
mod stats;
mod stores;
mod transfers;
mod verify;
mod write_guard;

use std::{
    collections::HashSet,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, Semaphore, broadcast::error::RecvError};

use crate::meta::DatabaseOptions;

pub use crate::{
    cluster::{REQUEST_ID, X_FORWARDED_FOR},
    coord::RegisteredNode,
};
pub use auth::Caller;
pub use background::Background;
pub use backpressure::WorkKind;
pub use content_reader::ContentReader;
pub use diagnosis::explain_store_error;
pub use health::{Dependency, Health, describe_clock_skew, describe_uid_lead};
pub use idempotency::{HeldIdempotencyKey, IdempotencyOutcome, RecordedAnswer};
pub use link_constraints::{download_constraints, upload_constraints};
pub use metadata::{check_metadata, metadata_error};
pub use multipart::MultipartOutcome;
pub use node_state::{LoadGuard, NodeState};
pub use receive::{
    Received, SizeHint, SizeLimit, WriteTarget, buffer_short_body, check_digests, publish_once,
};
pub use request_context::{ClientAddr, RequestId, Subject};
pub use signed_urls::{UPLOAD_PARAMETERS, upload_query};
pub use stores::Stores;
pub use transfers::{Transfer, Transfers, buffered_bytes, too_many_transfers};
pub use verify::ReadRateLimit;
pub use write_guard::{ActiveWrite, WriteGuard};

use crate::{
    Error, Result,
    cluster::PeerClient,
    config::Config,
    coord::{Coordinator, Event, LocalCoordinator, Message, RedisCoordinator, UidGenerator},
    link::LinkKeys,
    meta::{CacheLimits, DatabaseLocation, ExclusiveLock, Invalidation, Meta, NodeStores, now_ms},
    metrics::Metrics,
};

use crate::{cluster::Forwarder, coord::Owners};
use osproxy_types::uid::Uid;

/// A running node: the state that operations, tasks and transports share.
pub struct App {
    /// Metadata.
    pub meta: Meta,
    /// Object stores.
    pub stores: Stores,
    /// Signs and verifies links.
    pub links: LinkKeys,
    /// Configured limits.
    pub limits: Limits,
    authenticator: auth::Authenticator,
    key_rotation: key_rotation::KeyRotation,
    /// Work that outlives the request that started it. Awaited when the node stops.
    pub background: Background,
    /// Notified when a task is enqueued, so that the task engine looks for it at once.
    pub task_notify: Notify,
    /// Random id of this process, under which it holds leases.
    pub node_id: String,
    /// When the node started, in milliseconds since the Unix epoch. Older unfinished writes in a
    /// node-local store belong to no live process.
    pub started_at: i64,
    /// Metrics of this node.
    pub metrics: Metrics,
    /// Admission of transfers: concurrency limits and buffer memory.
    pub transfers: Arc<Transfers>,
    /// Node registry, worker id, and messages between nodes.
    pub coordinator: Arc<dyn Coordinator>,
    /// Which nodes have the stores that this node does not have.
    pub owners: Owners,
    /// Forwards requests to other nodes, and verifies requests that they forwarded.
    pub forwarder: Forwarder,
    /// What this node announces about itself.
    pub node: NodeState,
    uids: UidGenerator,
    /// Exclusive lock on the database, on a database server without Redis.
    exclusive_lock: Option<ExclusiveLock>,
    active_writes: Mutex<HashSet<i64>>,
    stats_cache: stats::StatsCache,
    folders: metrics_export::DiskFolders,
    health_checker: health::HealthChecker,
    multipart_locks: multipart::StripedLocks,
    /// Bounds the number of uploads whose parts are read before completion at the same time.
    inspections: Semaphore,
    reservations: reservations::DiskReservations,
}

/// Limits from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum size of a file, in bytes.
    pub max_size: u64,
    /// Maximum size of a part, in bytes.
    pub max_part_size: u64,
    /// Highest part number.
    pub max_parts: u32,
    /// How long an upload session is kept after it has expired, in milliseconds.
    pub expired_retention_ms: i64,
    /// Whether an instant upload requires a proof of possession.
    pub prove_possession: bool,
    /// Maximum size for which expected digests are verified before an upload is complete, in bytes.
    pub verify_up_to: u64,
    /// How long disk space stays reserved for an upload that has received nothing, in milliseconds.
    pub reservation_ttl_ms: i64,
    /// Maximum attempts of a task.
    pub max_task_attempts: u32,
    /// Maximum lifetime of a link, in seconds.
    pub max_link_secs: i64,
    /// Download links to a file that are issued within this many seconds are identical, which lets
    /// caches share them. 0: every link is different.
    pub link_round_secs: i64,
    /// Whether shared caches may store content.
    pub public_links: bool,
    /// Maximum pending writes (transactions and received content) when an upload is created.
    pub max_pending_writes: u64,
}

impl Limits {
    fn new(config: &Config) -> Self {
        Self {
            max_size: config.uploads.max_size,
            max_part_size: config.uploads.max_part_size,
            max_parts: config.uploads.max_parts,
            expired_retention_ms: config.uploads.keep_lapsed.saturating_mul(1000).cast_signed(),
            prove_possession: config.uploads.prove_possession,
            verify_up_to: config.uploads.verify_up_to,
            reservation_ttl_ms: config.local.reserve_secs.saturating_mul(1000).cast_signed(),
            max_task_attempts: config.tasks.max_attempts,
            max_link_secs: config.links.max_expire.cast_signed(),
            link_round_secs: config.links.round_secs.cast_signed(),
            public_links: config.links.public_cache,
            max_pending_writes: config.limits.max_backlog.into(),
        }
    }
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartupError {
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StartupError {
    /// An error whose message includes its cause.
    fn msg(what: String) -> Self {
        Self { message: what, source: None }
    }
}

/// Returns a closure for `map_err` that wraps an error in a [`StartupError`] with the message
/// `what`.
fn context<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> StartupError {
    let what = what.into();
    move |source| StartupError { message: what, source: Some(source.into()) }
}

/// Explains why the exclusive lock on `what` cannot be taken.
fn lock_error<E: std::error::Error + Send + Sync + 'static>(what: &str, error: E) -> StartupError {
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let mut causes = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    if causes.any(|cause| cause.kind() == std::io::ErrorKind::WouldBlock) {
        return StartupError::msg(format!("another osproxy process uses {what}: stop the service first"));
    }
    context(format!("cannot use {what}"))(error)
}

impl App {
    /// Opens the database, the stores and the connections of a node. The error names what cannot be
    /// used, and why.
    pub async fn open(config: &Config) -> std::result::Result<Arc<Self>, StartupError> {
        let data_dir = &config.data_dir;
        create_private_dir(data_dir)
            .map_err(context(format!("cannot use the data folder {}", data_dir.display())))?;
        let database = config.database_location().map_err(context("cannot use the database"))?;
        let mut node = [0; 8];
        getrandom::fill(&mut node).map_err(context("cannot generate an id for this process"))?;
        let node = hex::encode(node);
        let (coordinator, alone) = open_coordinator(config, &database, &node).await?;
        let started_at = now_ms();
        let transfers = Transfers::new(&config.limits);
        let stores = Stores::open(config, &database, transfers.buffers()).await?;
        let here = NodeStores::new(node.clone(), stores.local_stores());
        let meta = Meta::open(&database, database_options(config, here)).await;
        let meta = meta.map_err(|error| StartupError::msg(Meta::open_error_message(&database, &error)))?;
        // No other process uses the node-local stores or, if `is_alone`, this database, so the
        // leases of earlier processes are void.
        let is_alone = alone.is_some() || matches!(database, DatabaseLocation::File(_));
        let own = stores.names().into_iter().filter(|name| !stores.is_shared(name)).collect();
        meta.expire_other_leases(&node, own, is_alone)
            .await
            .map_err(context("cannot release the leases of earlier processes"))?;
        // Nodes that share a database get their worker ids from Redis, which records the newest uid
        // of each. If every node continued from the newest uid in the database, one clock that was
        // ahead would affect all nodes.
        let newest = if config.is_clustered() {
            None
        } else {
            meta.highest_id().await.map_err(context("cannot read the newest uid"))?
        };
        let links = load_link_keys(config, &meta).await?;
        let secret = config.cluster.secret().map_err(context(SECRET_CONTEXT))?;
        let secrets = secret.map(|secret| vec![secret]);
        let is_for_cluster = secrets.is_none();
        let secrets = secrets.unwrap_or_else(|| key_rotation::cluster_secrets(&links));
        let forward_timeout = Duration::from_secs(config.cluster.forward_timeout);
        let max_waiting = (config.server.max_connections / 2).max(1).into();
        let peers = PeerClient::new(&secrets, forward_timeout, max_waiting);
        let peers = peers.map_err(context(SECRET_CONTEXT))?;
        let owners = Owners::new(coordinator.clone(), config.cluster.timing().heartbeat);
        let node_state = NodeState::new(node.clone(), started_at, &stores);
        let app = Arc::new(Self {
            meta,
            stores,
            links,
            limits: Limits::new(config),
            authenticator: auth::Authenticator::new(config),
            key_rotation: key_rotation::KeyRotation {
                is_configured: !config.links.keys.is_empty(),
                is_for_cluster,
                last_read: Mutex::new(Instant::now()),
            },
            background: Background::on_current_runtime(),
            task_notify: Notify::new(),
            started_at,
            metrics: Metrics::default(),
            transfers,
            uids: UidGenerator::new(newest),
            forwarder: Forwarder::new(peers, owners.clone(), node.clone()),
            node: node_state,
            node_id: node,
            owners,
            coordinator,
            exclusive_lock: alone,
            active_writes: Mutex::default(),
            stats_cache: stats::StatsCache::default(),
            folders: metrics_export::DiskFolders::of(config),
            health_checker: health::HealthChecker::default(),
            multipart_locks: multipart::StripedLocks::default(),
            inspections: Semaphore::new(inspect::MAX_INSPECTIONS),
            reservations: reservations::DiskReservations::new(config, &database),
        });
        app.exchange_invalidations();
        app.spawn_link_key_polling();
        Ok(app)
    }

    /// Sends cache invalidations of this node to the other nodes, and applies theirs.
    fn exchange_invalidations(self: &Arc<Self>) {
        let (sender, receiver) = (Arc::downgrade(self), Arc::downgrade(self));
        self.meta.on_invalidate(move |change| {
            if let Some(app) = sender.upgrade() {
                app.coordinator.publish(match change {
                    Invalidation::File(uid) => Message::FileChanged { uid: uid.get() },
                    Invalidation::Blob(blob_id) => Message::BlobChanged { blob_id },
                });
            }
        });
        let mut events = self.coordinator.subscribe();
        self.meta.set_cache_enabled(self.coordinator.is_connected());
        tokio::spawn(async move {
            loop {
                let event = match events.recv().await {
                    Ok(event) => event,
                    Err(RecvError::Lagged(_)) => Event::MayHaveMissed,
                    Err(RecvError::Closed) => return,
                };
                let Some(app) = receiver.upgrade() else {
                    return;
                };
                match event {
                    Event::Message(Message::FileChanged { uid }) => {
                        app.meta.invalidate(Invalidation::File(Uid::from_db(uid)));
                    }
                    Event::Message(Message::BlobChanged { blob_id }) => {
                        app.meta.invalidate(Invalidation::Blob(blob_id));
                    }
                    Event::Message(Message::TaskEnqueued) => app.task_notify.notify_one(),
                    Event::MayHaveMissed => {
                        app.meta.set_cache_enabled(app.coordinator.is_connected());
                        app.task_notify.notify_one();
                    }
                }
            }
        });
    }

    /// Wakes the task engine of this node, for a task that it may run. Other nodes find the task by
    /// polling: a message costs each of them something, so uploads must not send any.
    pub fn notify_task_engine(&self) {
        self.task_notify.notify_one();
    }

    /// Wakes the task engines of all nodes, because the store that the task needs may be another
    /// node's.
    pub fn notify_all_task_engines(&self) {
        self.notify_task_engine();
        self.coordinator.publish(Message::TaskEnqueued);
    }

    /// Returns a new uid, unique in the cluster. Fails with `Unavailable` if this node has no valid
    /// worker id or has lost its exclusive lock on the database.
    pub async fn next_uid(&self) -> Result<Uid> {
        if self.exclusive_lock.as_ref().is_some_and(|alone| !alone.is_held()) {
            return Err(Error::unavailable("this node has lost its exclusive lock on the database"));
        }
        for _ in 0..MAX_TRIES {
            let worker = self.coordinator.worker_lease();
            let worker = worker.ok_or_else(|| Error::unavailable("this node has no worker id"))?;
            let now_ms = u64::try_from(self.meta.now_ms()).unwrap_or(0);
            match self.uids.next(worker.window(), now_ms) {
                // Checked last: the process may have been suspended for long at any point before.
                Some(uid) if worker.permits(uid) => return Ok(uid),
                // Renewing the lease adds more uids.
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(Error::unavailable("the worker id lease has no uids left, or ends too soon"))
    }

    /// Returns the ids of the processes that may be writing to a store now, including this one.
    pub async fn live_writers(&self, store: &str) -> Result<HashSet<String>> {
        let mut writers = HashSet::from([self.node_id.clone()]);
        if self.stores.is_shared(store) {
            let nodes = self.coordinator.list_nodes().await.map_err(Error::unavailable)?;
            writers.extend(nodes.into_iter().map(|known| known.node.id));
        }
        Ok(writers)
    }

    /// Ids of the blobs and parts that this process is writing now.
    pub fn active_writes(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.active_writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to Redis if it is configured; otherwise ensures that this is the only node.
async fn open_coordinator(
    config: &Config,
    database: &DatabaseLocation,
    node: &str,
) -> std::result::Result<(Arc<dyn Coordinator>, Option<ExclusiveLock>), StartupError> {
    match database {
        DatabaseLocation::File(path) => {
            let what = format!("the database {}", path.display());
            let coordinator = LocalCoordinator::open(path).map_err(|error| lock_error(&what, error))?;
            Ok((Arc::new(coordinator), None))
        }
        DatabaseLocation::Server(server) => {
            let redis = config.redis.settings().map_err(|problems| problems.join("; "));
            if let Some(redis) = redis.map_err(context(REDIS_CONTEXT))? {
                let timing = config.cluster.timing();
                let coordinator = RedisCoordinator::open(redis, node.to_owned(), timing).await;
                return Ok((Arc::new(coordinator.map_err(context(REDIS_CONTEXT))?), None));
            }
            let alone = ExclusiveLock::try_acquire(server).await;
            let alone =
                alone.map_err(|error| StartupError::msg(Meta::open_error_message(database, &error)))?;
            let taken = "another node uses this database; configure `redis` on both nodes to share it";
            let alone = alone.ok_or(taken).map_err(context("cannot lock the database"))?;
            Ok((Arc::new(LocalCoordinator::without_lock()), Some(alone)))
        }
    }
}

/// Returns the configured size and lifetime of the metadata cache.
fn cache_limits(config: &Config) -> CacheLimits {
    CacheLimits {
        max_entries: usize::try_from(config.database.cache_entries).unwrap_or(usize::MAX),
        max_age: Duration::from_secs(config.database.cache_seconds),
    }
}

/// Settings of the database handle of a process that can access these stores.
pub fn database_options(config: &Config, node_stores: NodeStores) -> DatabaseOptions {
    DatabaseOptions { node_stores, cache: cache_limits(config), max_task_attempts: config.tasks.max_attempts }
}

/// Creates a folder that only its owner can access: it holds the link keys.
pub fn create_private_dir(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Maximum attempts of `next_uid`, and the pause between them.
const MAX_TRIES: usize = 4;
const PAUSE: Duration = Duration::from_millis(10);

const REDIS_CONTEXT: &str = "cannot use Redis";

const SECRET_CONTEXT: &str = "cannot use the cluster secret";

const LINK_KEYS_CONTEXT: &str = "cannot use the link keys";

/// Generates the id and the secret of a link key.
pub fn generate_link_key() -> std::result::Result<(String, Vec<u8>), getrandom::Error> {
    let (mut id, mut secret) = ([0; 4], vec![0; 32]);
    getrandom::fill(&mut id)?;
    getrandom::fill(&mut secret)?;
    Ok((hex::encode(id), secret))
}

/// Returns the configured link keys, or else those in the database, which are created at the first
/// start.
async fn load_link_keys(config: &Config, meta: &Meta) -> std::result::Result<LinkKeys, StartupError> {
    let mut secrets = Vec::new();
    for key in &config.links.keys {
        secrets.push((key.id.clone(), key.secret().map_err(context(LINK_KEYS_CONTEXT))?));
    }
    if secrets.is_empty() {
        let fresh = generate_link_key().map_err(context(LINK_KEYS_CONTEXT))?;
        secrets = meta.link_keys_or_create(fresh).await.map_err(context(LINK_KEYS_CONTEXT))?;
    }
    key_rotation::parse_link_keys(&secrets)
        .map_err(context(LINK_KEYS_CONTEXT))?
        .ok_or("no link key is configured or stored")
        .map_err(context(LINK_KEYS_CONTEXT))
}
