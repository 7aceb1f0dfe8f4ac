//! [`App`], the state of a running node that all operations share. No transport code.

mod access;
mod advice;
mod attempt;
mod background;
mod backlog;
mod condition;
mod content;
mod cursor;
mod digests;
mod exposition;
mod forward;
mod idempotency;
mod inspect;
mod links;
mod metadata;
mod native;
mod nodes;
mod objects;
mod receive;
mod request;
mod room;
mod stats;
mod stores;
mod terms;
mod transfers;
mod urls;

use std::{
    collections::HashSet,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, Semaphore, broadcast::error::RecvError};

pub use access::Caller;
pub use advice::advice;
pub use attempt::{Attempt, Writing};
pub use background::Background;
pub use backlog::Beginning;
pub use condition::{Condition, Need, clock_differs, uids_are_ahead};
pub use content::ContentReader;
pub use digests::Pace;
pub use forward::{REQUEST_ID, Unforwarded, X_FORWARDED_FOR};
pub use idempotency::{KeyOutcome, KeyedAnswer, TakenKey};
pub use metadata::{check_metadata, metadata_refused};
pub use native::PutTogether;
pub use nodes::{Busy, KnownNode, Node};
pub use receive::{Bound, Received, SizeHint, Target, check_claims, measured, publish};
pub use request::{ClientAddr, RequestId, Subject};
pub use stores::Stores;
pub use terms::{download_terms, upload_terms};
pub use transfers::{Transfer, Transfers, kept, too_many_transfers};
pub use urls::{UPLOAD_PARAMETERS, upload_query};

use crate::{
    Error, Result,
    cluster::Cluster,
    config::{Config, DatabaseLocation},
    coord::{Coordinator, Event, InProcess, Message, ThroughRedis},
    link::LinkKeys,
    meta::{Alone, Change, Here, Memory, Meta, now_ms},
    metrics::Metrics,
    uid::{Uid, UidGenerator},
};

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
    authenticator: access::Access,
    key_rotation: links::Renewal,
    /// Work that outlives the request that started it. Awaited when the node stops.
    pub background: Background,
    /// Notified when a task is enqueued, so that the task engine looks for it at once.
    pub task_notify: Notify,
    /// Random id of this process, under which it holds leases.
    pub node_id: String,
    /// When the node started, in milliseconds since the Unix epoch. Unfinished writes that are
    /// older, in a store of this node alone, belong to no live process.
    pub started_at: i64,
    /// Metrics of this node.
    pub metrics: Metrics,
    /// Admission of transfers: concurrency limits and buffer memory.
    pub transfers: Arc<Transfers>,
    /// Node registry, worker id, and messages between nodes.
    pub coordinator: Box<dyn Coordinator>,
    /// Client for requests that are forwarded to other nodes.
    pub cluster: Cluster,
    nodes: nodes::Nodes,
    uids: UidGenerator,
    /// Exclusive lock on the database, on a database server without Redis.
    exclusive_lock: Option<Alone>,
    active_writes: Mutex<HashSet<i64>>,
    stats_cache: stats::Counted,
    folders: exposition::Folders,
    health_checker: condition::Observer,
    multipart_locks: native::Beginning,
    /// Bounds the number of uploads whose parts are read before completion at the same time.
    inspections: Semaphore,
    reservations: room::Room,
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

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StartError {
    /// An error whose message includes its cause.
    fn told(what: String) -> Self {
        Self { message: what, source: None }
    }
}

/// Returns a closure for `map_err` that adds `what` failed to the error.
fn cannot<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> StartError {
    let what = what.into();
    move |source| StartError { message: what, source: Some(source.into()) }
}

/// Explains why the exclusive lock on `what` cannot be taken.
fn cannot_lock<E: std::error::Error + Send + Sync + 'static>(what: &str, error: E) -> StartError {
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let mut causes = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    if causes.any(|cause| cause.kind() == std::io::ErrorKind::WouldBlock) {
        return StartError::told(format!("another osproxy process uses {what}: stop the service first"));
    }
    cannot(format!("cannot use {what}"))(error)
}

impl App {
    /// Opens the database, the stores and the connections of a node. The error names what cannot be
    /// used, and why.
    pub async fn open(config: &Config) -> std::result::Result<Arc<Self>, StartError> {
        let data_dir = &config.data_dir;
        create_private(data_dir)
            .map_err(cannot(format!("cannot use the data folder {}", data_dir.display())))?;
        let database = config.database_location().map_err(cannot("cannot use the database"))?;
        let mut node = [0; 8];
        getrandom::fill(&mut node).map_err(cannot("cannot generate an id for this process"))?;
        let node = hex::encode(node);
        let (coordinator, alone) = coordinate(config, &database, &node).await?;
        let started_at = now_ms();
        let transfers = Transfers::new(&config.limits);
        let stores = Stores::open(config, &database, transfers.buffers()).await?;
        let here = Here::new(node.clone(), stores.here());
        let meta = Meta::open(&database, here, memory(config)).await;
        let meta = meta.map_err(|error| StartError::told(Meta::explain(&database, &error)))?;
        // No other process works on the stores of this node alone, nor, if `is_alone`, on this
        // database: leases of earlier processes are void.
        let is_alone = alone.is_some() || matches!(database, DatabaseLocation::File(_));
        let own = stores.names().into_iter().filter(|name| !stores.is_shared(name)).collect();
        meta.end_leases_of_others(&node, own, is_alone)
            .await
            .map_err(cannot("cannot release the leases of earlier processes"))?;
        // Nodes that share a database get their worker ids from Redis, which records the newest uid
        // of each. If every node continued from the newest uid in the database, one clock that was
        // ahead would affect all nodes.
        let newest = if config.is_clustered() {
            None
        } else {
            meta.newest_uid().await.map_err(cannot("cannot read the newest uid"))?
        };
        let links = link_keys(config, &meta).await?;
        let secret = config.cluster.secret().map_err(cannot(SECRET))?;
        let secrets = secret.map(|secret| vec![secret]);
        let is_for_cluster = secrets.is_none();
        let secrets = secrets.unwrap_or_else(|| links::cluster_secrets(&links));
        let forward_timeout = Duration::from_secs(config.cluster.forward_timeout);
        let app = Arc::new(Self {
            meta,
            stores,
            links,
            limits: Limits {
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
            },
            authenticator: access::Access::new(config),
            key_rotation: links::Renewal {
                is_configured: !config.links.keys.is_empty(),
                is_for_cluster,
                last_read: Mutex::new(Instant::now()),
            },
            background: Background::here(),
            task_notify: Notify::new(),
            node_id: node,
            started_at,
            metrics: Metrics::default(),
            transfers,
            uids: UidGenerator::new(newest),
            coordinator,
            cluster: Cluster::new(
                &secrets,
                forward_timeout,
                (config.server.max_connections / 2).max(1).into(),
            )
            .map_err(cannot(SECRET))?,
            nodes: nodes::Nodes::new(config),
            exclusive_lock: alone,
            active_writes: Mutex::default(),
            stats_cache: stats::Counted::default(),
            folders: exposition::Folders::of(config),
            health_checker: condition::Observer::default(),
            multipart_locks: native::Beginning::default(),
            inspections: Semaphore::new(inspect::PARALLEL),
            reservations: room::Room::new(config, &database),
        });
        app.keep_in_touch();
        app.keep_link_keys();
        Ok(app)
    }

    /// Sends cache invalidations of this node to the other nodes, and applies theirs.
    fn keep_in_touch(self: &Arc<Self>) {
        let (sender, receiver) = (Arc::downgrade(self), Arc::downgrade(self));
        self.meta.tell_changes(move |change| {
            if let Some(app) = sender.upgrade() {
                app.coordinator.send(match change {
                    Change::File(uid) => Message::FileChanged { uid: uid.get() },
                    Change::Blob(blob_id) => Message::BlobChanged { blob_id },
                });
            }
        });
        let mut events = self.coordinator.listen();
        self.meta.hear_changes(self.coordinator.hears());
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
                        app.meta.hear_change(Change::File(Uid::from_recorded(uid)));
                    }
                    Event::Message(Message::BlobChanged { blob_id }) => {
                        app.meta.hear_change(Change::Blob(blob_id));
                    }
                    Event::Message(Message::TaskEnqueued) => app.task_notify.notify_one(),
                    Event::MayHaveMissed => {
                        app.meta.hear_changes(app.coordinator.hears());
                        app.task_notify.notify_one();
                    }
                }
            }
        });
    }

    /// Wakes the task engine of this node, for a task that it may run. Other nodes find the task by
    /// polling: a message costs each of them something, so uploads must not send any.
    pub fn task_enqueued(&self) {
        self.task_notify.notify_one();
    }

    /// Wakes the task engines of all nodes, because the store that the task needs may be another
    /// node's.
    pub fn task_enqueued_elsewhere(&self) {
        self.task_enqueued();
        self.coordinator.send(Message::TaskEnqueued);
    }

    /// Returns a new uid, unique in the cluster. Fails with `Unavailable` if this node has no valid
    /// worker id or has lost its exclusive lock on the database.
    pub async fn next_uid(&self) -> Result<Uid> {
        if self.exclusive_lock.as_ref().is_some_and(|alone| !alone.is_held()) {
            return Err(Error::unavailable("this node has lost its exclusive lock on the database"));
        }
        for _ in 0..ROUNDS {
            let worker = self.coordinator.worker();
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
    pub async fn writers_of(&self, store: &str) -> Result<HashSet<String>> {
        let mut writers = HashSet::from([self.node_id.clone()]);
        if self.stores.is_shared(store) {
            let nodes = self.coordinator.nodes().await.map_err(Error::unavailable)?;
            writers.extend(nodes.into_iter().map(|known| known.node.id));
        }
        Ok(writers)
    }

    /// Ids of the blobs and parts that this process is writing now.
    pub fn writing(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.active_writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to Redis if it is configured; otherwise ensures that this is the only node.
async fn coordinate(
    config: &Config,
    database: &DatabaseLocation,
    node: &str,
) -> std::result::Result<(Box<dyn Coordinator>, Option<Alone>), StartError> {
    match database {
        DatabaseLocation::File(path) => {
            let what = format!("the database {}", path.display());
            let coordinator = InProcess::open(path).map_err(|error| cannot_lock(&what, error))?;
            Ok((Box::new(coordinator), None))
        }
        DatabaseLocation::Server(server) => {
            let redis = config.redis.redis().map_err(|problems| problems.join("; "));
            if let Some(redis) = redis.map_err(cannot(REDIS))? {
                let coordinator = ThroughRedis::open(redis, node.to_owned(), &config.cluster).await;
                return Ok((Box::new(coordinator.map_err(cannot(REDIS))?), None));
            }
            let alone = Alone::lock(server).await;
            let alone = alone.map_err(|error| StartError::told(Meta::explain(database, &error)))?;
            let taken = "another node uses this database; configure `redis` on both nodes to share it";
            let alone = alone.ok_or(taken).map_err(cannot("cannot lock the database"))?;
            Ok((Box::new(InProcess::alone()), Some(alone)))
        }
    }
}

/// Returns the configured size and lifetime of the metadata cache.
pub fn memory(config: &Config) -> Memory {
    Memory {
        max_entries: usize::try_from(config.database.cache_entries).unwrap_or(usize::MAX),
        max_age: Duration::from_secs(config.database.cache_seconds),
    }
}

/// Creates a folder that only its owner can access: it holds the link keys.
pub fn create_private(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// How often, and after what pause, `next_uid` tries again.
const ROUNDS: usize = 4;
const PAUSE: Duration = Duration::from_millis(10);

const REDIS: &str = "cannot use Redis";

const SECRET: &str = "cannot use the cluster secret";

const KEYS: &str = "cannot use the link keys";

/// Generates the id and the secret of a link key.
pub fn fresh_link_key() -> std::result::Result<(String, Vec<u8>), getrandom::Error> {
    let (mut id, mut secret) = ([0; 4], vec![0; 32]);
    getrandom::fill(&mut id)?;
    getrandom::fill(&mut secret)?;
    Ok((hex::encode(id), secret))
}

/// Returns the configured link keys, or else those in the database, which are created at the first
/// start.
async fn link_keys(config: &Config, meta: &Meta) -> std::result::Result<LinkKeys, StartError> {
    let mut secrets = Vec::new();
    for key in &config.links.keys {
        secrets.push((key.id.clone(), key.secret().map_err(cannot(KEYS))?));
    }
    if secrets.is_empty() {
        let fresh = fresh_link_key().map_err(cannot(KEYS))?;
        secrets = meta.link_keys(fresh).await.map_err(cannot(KEYS))?;
    }
    links::link_keys(&secrets).map_err(cannot(KEYS))?.ok_or("there are none").map_err(cannot(KEYS))
}
