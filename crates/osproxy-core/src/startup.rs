//! Starts a node: takes the locks of the node, then opens the database that the locks protect.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use osproxy_cluster::{
    Coordinator, Forwarder, LocalCoordinator, Owners, PeerClient, RedisCoordinator, UidGenerator,
};
use osproxy_meta::{
    AccessDb, DatabaseLocation, DatabaseOptions, ExclusiveLock, LinkKeyRecord, Meta, NodeStores, now_ms,
};
use osproxy_storage::BufferBudget;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use crate::{
    App, Authenticator, DetachedWork, IdempotencyKeys, NodeState, Stores, Transfers, Uids,
    admission::{Admission, reservations::DiskReservations},
    auth::S3MasterKeys,
    boxed_future,
    cached::Cached,
    disks::DiskFolders,
    events::{self, EventOps},
    generate_link_key,
    health::HealthChecker,
    links::{self, LinkKeys, Links, rotation::KeyRotation},
    metrics::{Metrics, export::MetricsSources},
    objects::{Objects, hot_content::HotContent, inspect::MAX_INSPECTIONS, multipart::ObjectLocks},
    ops::{FileOps, TaskOps, UploadOps, WebhookOps},
    processing::Pipeline,
    settings::{BuildInfo, Limits, LinkKeySecret, Settings},
    stats::STATS_TTL,
    tasks::TaskNotifier,
    webhooks::WebhookSettings,
};

const REDIS_CONTEXT: &str = "cannot use Redis";

const SECRET_CONTEXT: &str = "cannot use the cluster secret";

const LINK_KEYS_CONTEXT: &str = "cannot use the link keys";

/// The error when a node cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartupError {
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StartupError {
    /// Creates an error whose message already includes the cause.
    pub fn msg(what: String) -> Self {
        Self { message: what, source: None }
    }
}

/// Returns a closure for `map_err` that wraps an error in a [`StartupError`] with the message
/// `what`.
pub fn context<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> StartupError {
    let what = what.into();
    move |source| StartupError { message: what, source: Some(source.into()) }
}

/// Creates the error for an exclusive lock on `what` that could not be taken because of `error`.
pub fn lock_error<E: std::error::Error + Send + Sync + 'static>(what: &str, error: E) -> StartupError {
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let mut causes = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    if causes.any(|cause| cause.kind() == std::io::ErrorKind::WouldBlock) {
        return StartupError::msg(format!("another osproxy process uses {what}: stop the service first"));
    }
    context(format!("cannot use {what}"))(error)
}

/// A node that has taken its locks. Either no other process uses the database, or all processes
/// that use the database coordinate through Redis. Create this value before you open the stores of
/// the node.
pub struct Startup {
    settings: Settings,
    node_id: String,
    started_at: i64,
    coordinator: Arc<dyn Coordinator>,
    exclusive_lock: Option<ExclusiveLock>,
    transfers: Arc<Transfers>,
}

impl Startup {
    /// Connects to Redis if it is configured. Otherwise, ensures that no other node uses the
    /// database.
    #[boxed_future]
    pub async fn lock(settings: Settings) -> Result<Self, StartupError> {
        let mut node = [0; 8];
        getrandom::fill(&mut node).map_err(context("cannot generate an id for this process"))?;
        let node_id = hex::encode(node);
        let (coordinator, exclusive_lock) = open_coordinator(&settings, &node_id).await?;
        let transfers = Transfers::new(settings.transfers);
        Ok(Self { settings, node_id, started_at: now_ms(), coordinator, exclusive_lock, transfers })
    }

    /// The settings of the node.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The memory that the buffers of all transfers share. Stores also take the memory for large
    /// parts from this budget.
    pub fn buffers(&self) -> &BufferBudget {
        self.transfers.buffers()
    }

    /// Opens the database and starts the node. The error says what cannot be used, and why.
    #[boxed_future]
    pub async fn open(self, stores: Stores) -> Result<Arc<App>, StartupError> {
        let Self { settings, node_id, started_at, coordinator, exclusive_lock, transfers } = self;
        let database = &settings.database;
        let mut here = NodeStores::new(node_id.clone(), stores.local_stores());
        let pipeline = Arc::new(Pipeline::new(settings.processing.clone()));
        here.processing = pipeline.policy();
        here.max_slot_start = here.max_slot_start.min(settings.limits.max_size);
        let options = DatabaseOptions {
            node_stores: here,
            cache: settings.cache,
            max_task_attempts: settings.limits.max_task_attempts,
            records_events: settings.limits.records_events,
        };
        let meta = Meta::open(database, options).await;
        let meta = meta.map_err(|error| StartupError::msg(Meta::open_error_message(database, &error)))?;
        let meta = Arc::new(meta);
        // End the leases of earlier processes. If other nodes may use the database, end only the
        // leases on tasks of stores that belong to this node.
        let is_alone = exclusive_lock.is_some() || matches!(database, DatabaseLocation::File(_));
        let own = stores.names().into_iter().filter(|name| !stores.is_shared(name)).collect();
        meta.tasks
            .expire_other_leases(&node_id, own, is_alone)
            .await
            .map_err(context("cannot release the leases of earlier processes"))?;
        // Nodes that share a database get their worker ids from Redis, which records the newest uid
        // of each worker id. These nodes must not continue from the newest uid in the database: one
        // node whose clock is ahead would put all other nodes ahead too.
        let newest = if settings.is_clustered() {
            None
        } else {
            meta.highest_id().await.map_err(context("cannot read the newest uid"))?
        };
        let has_configured_keys = !settings.link_keys.is_empty();
        let links = load_link_keys(settings.link_keys, &meta.access).await?;
        let secrets = settings.peers.secret.map(|secret| vec![secret]);
        let is_for_cluster = secrets.is_none();
        let secrets = secrets.unwrap_or_else(|| links::rotation::cluster_secrets(&links));
        let peers = PeerClient::new(&secrets, settings.peers.timeout, settings.peers.max_forwards);
        let peers = peers.map_err(context(SECRET_CONTEXT))?;
        let owners = Owners::new(coordinator.clone(), settings.cluster.heartbeat);
        let reservations = DiskReservations::new(settings.reservations, &settings.disks, &settings.database);
        let app = Parts {
            node: NodeState::new(node_id.clone(), started_at, &stores, settings.build.version),
            forwarder: Forwarder::new(peers, owners.clone(), node_id.clone()),
            owners,
            uids: Arc::new(Uids::new(
                UidGenerator::new(newest),
                meta.clone(),
                coordinator.clone(),
                exclusive_lock,
            )),
            meta,
            stores: Arc::new(stores),
            coordinator,
            transfers,
            reservations,
            link_keys: links,
            key_rotation: KeyRotation {
                is_configured: has_configured_keys,
                is_for_cluster,
                last_read: Mutex::new(Instant::now()),
            },
            folders: DiskFolders::new(&settings.disks),
            pipeline,
            limits: settings.limits,
            build: settings.build,
            is_open: settings.is_open,
            s3_master_keys: settings.s3_master_keys,
            webhooks: settings.webhooks,
            node_id,
            started_at,
        }
        .assemble()?;
        app.exchange_messages();
        events::spawn_assignment(&app);
        app.links.spawn_polling();
        Ok(app)
    }
}

/// The components from which an [`App`] is assembled.
struct Parts {
    meta: Arc<Meta>,
    stores: Arc<Stores>,
    coordinator: Arc<dyn Coordinator>,
    owners: Owners,
    forwarder: Forwarder,
    node: NodeState,
    uids: Arc<Uids>,
    transfers: Arc<Transfers>,
    reservations: DiskReservations,
    link_keys: LinkKeys,
    key_rotation: KeyRotation,
    folders: DiskFolders,
    pipeline: Arc<Pipeline>,
    limits: Limits,
    build: BuildInfo,
    is_open: bool,
    s3_master_keys: S3MasterKeys,
    webhooks: WebhookSettings,
    node_id: String,
    started_at: i64,
}

impl Parts {
    /// Creates the handles of the node. Fails if the certificates for webhooks are invalid.
    fn assemble(self) -> Result<Arc<App>, StartupError> {
        let metrics = Arc::new(Metrics::default());
        let metrics_registry = self.metrics_registry(metrics.clone());
        let Self { meta, stores, uids, limits, .. } = self;
        let detached_work = Arc::new(DetachedWork::on_current_runtime());
        let task_notifier = Arc::new(TaskNotifier::new(self.coordinator.clone()));
        let admission = Arc::new(Admission {
            meta: meta.clone(),
            stores: stores.clone(),
            metrics: metrics.clone(),
            limits,
            transfers: self.transfers,
            reservations: self.reservations,
        });
        let objects = Arc::new(Objects {
            meta: meta.clone(),
            stores: stores.clone(),
            owners: self.owners,
            admission: admission.clone(),
            uids: uids.clone(),
            task_notifier: task_notifier.clone(),
            detached_work: detached_work.clone(),
            limits,
            active_writes: Mutex::default(),
            locks: ObjectLocks::default(),
            hot_content: HotContent::new(limits.max_cached_content),
            inspections: Semaphore::new(MAX_INSPECTIONS),
        });
        let access = meta.access.clone();
        let links = Arc::new(Links::new(self.link_keys, self.key_rotation, access, self.forwarder.clone()));
        let idempotency = Arc::new(IdempotencyKeys {
            detached_work: detached_work.clone(),
            db: meta.idempotency.clone(),
            uids: uids.clone(),
            admission: admission.clone(),
        });
        let files = Arc::new(FileOps {
            meta: meta.clone(),
            stores: stores.clone(),
            objects: objects.clone(),
            admission: admission.clone(),
            idempotency: idempotency.clone(),
            uids: uids.clone(),
            task_notifier: task_notifier.clone(),
            detached_work: detached_work.clone(),
            limits,
            node: self.node.clone(),
        });
        let uploads = UploadOps::new(files.clone(), links.clone(), metrics.clone(), self.coordinator.clone());
        let tasks = TaskOps { db: meta.tasks.clone(), task_notifier: task_notifier.clone(), limits };
        let webhooks = WebhookOps::new(meta.clone(), self.webhooks, &task_notifier, &metrics);
        Ok(Arc::new(App {
            auth: Arc::new(Authenticator::new(meta.access.clone(), self.is_open, self.s3_master_keys)),
            events: Arc::new(EventOps::new(meta.events.clone(), self.node.clone())),
            meta,
            stores,
            objects,
            admission,
            links,
            idempotency,
            uids,
            files,
            uploads: Arc::new(uploads),
            tasks: Arc::new(tasks),
            webhooks: Arc::new(webhooks.map_err(context("cannot use `webhooks.ca_file`"))?),
            pipeline: self.pipeline,
            task_notifier,
            detached_work,
            metrics,
            limits,
            build: self.build,
            node_id: self.node_id,
            started_at: self.started_at,
            coordinator: self.coordinator,
            forwarder: self.forwarder,
            node: self.node,
            metrics_registry,
            stats_cache: Cached::new(STATS_TTL),
            folders: self.folders,
            health_checker: HealthChecker::new(),
        }))
    }

    fn metrics_registry(&self, metrics: Arc<Metrics>) -> Registry {
        let sources = MetricsSources {
            build: self.build,
            started_at: self.started_at,
            node: self.node.clone(),
            metrics,
            meta: self.meta.clone(),
            stores: self.stores.clone(),
        };
        sources.into_registry()
    }
}

/// Connects to Redis if it is configured. Otherwise, ensures that no other node uses the database.
async fn open_coordinator(
    settings: &Settings,
    node: &str,
) -> Result<(Arc<dyn Coordinator>, Option<ExclusiveLock>), StartupError> {
    match &settings.database {
        DatabaseLocation::File(path) => {
            let what = format!("the database {}", path.display());
            let coordinator = LocalCoordinator::open(path).map_err(|error| lock_error(&what, error))?;
            Ok((Arc::new(coordinator), None))
        }
        DatabaseLocation::Server(server) => {
            if let Some(redis) = &settings.redis {
                let coordinator =
                    RedisCoordinator::open(redis.clone(), node.to_owned(), settings.cluster).await;
                return Ok((Arc::new(coordinator.map_err(context(REDIS_CONTEXT))?), None));
            }
            let alone = ExclusiveLock::try_acquire(server).await;
            let alone = alone
                .map_err(|error| StartupError::msg(Meta::open_error_message(&settings.database, &error)))?;
            let taken = "another node uses this database; configure `redis` on both nodes to share it";
            let alone = alone.ok_or(taken).map_err(context("cannot lock the database"))?;
            Ok((Arc::new(LocalCoordinator::without_lock()), Some(alone)))
        }
    }
}

/// Returns the configured link keys, or else the keys in the database. If the database has no keys,
/// creates one there.
pub async fn load_link_keys(configured: Vec<LinkKeySecret>, db: &AccessDb) -> Result<LinkKeys, StartupError> {
    let mut secrets: Vec<_> =
        configured.into_iter().map(|key| LinkKeyRecord { id: key.id, secret: key.secret }).collect();
    if secrets.is_empty() {
        let (id, secret) = generate_link_key().map_err(context(LINK_KEYS_CONTEXT))?;
        let fresh = LinkKeyRecord { id, secret };
        secrets = db.link_keys_or_create(fresh).await.map_err(context(LINK_KEYS_CONTEXT))?;
    }
    links::rotation::parse_link_keys(&secrets)
        .map_err(context(LINK_KEYS_CONTEXT))?
        .ok_or("no link key is configured or stored")
        .map_err(context(LINK_KEYS_CONTEXT))
}
