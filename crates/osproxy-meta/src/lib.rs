//! Metadata: the only crate that contains SQL.
//!
//! Every state change is a conditional `UPDATE` that names the state it expects; a caller whose
//! update affects no row has lost the race. Callers pass values in and get an outcome back, never a
//! connection.

mod access;
mod admin;
mod blobs;
#[cfg(test)]
mod contract;
mod db;
mod error;
mod files;
mod import;
mod tasks;
#[cfg(test)]
mod tests;
mod uploads;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::BoxFuture;
use osproxy_storage::{Category, Key, extension};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr};

pub use access::api_keys::ApiKeyRecord;
pub use access::idempotency::{IdempotentRequest, KeyAcquisition, RecordedAnswer};
pub use access::link_keys::LinkKeyRecord;
pub use access::quotas::QuotaUsage;
pub use access::tenants::TenantUsage;
pub use admin::history::{BlobHistory, FileHistory, PartHistory};
pub use admin::integrity::{BlobLayout, BlobRecord, BlobState, ContentRecord, PartRecord, PartState};
pub use admin::stats::DatabaseStats;
pub use blobs::Blob;
pub use blobs::blake3_tree::PartDigests;
pub use blobs::merges::{BeginMergeOutcome, MergeIntent, MergeOutcome, UnverifiedBlob, WholeBlob};
pub use blobs::orphans::{ObjectRowKind, PendingDelete, UnfinishedRow};
pub use db::exclusive_lock::ExclusiveLock;
pub use db::location::{DatabaseLocation, DatabaseServer, DatabaseTarget, ServerKind, TlsMode};
pub use db::metrics::{DatabaseSnapshot, OperationSnapshot};
pub use error::{DriverError, MetaError};
pub use files::delete::{DeleteOutcome, DeletingBlob};
pub use files::listing::{FileFilter, FileMetadata, FilePosition, FileRecord, MAX_PREFIX};
pub use files::update::{CopyOutcome, MetadataEdit, UpdateOutcome};
pub use files::{
    AnnouncedContent, ContentLayout, CreateOutcome, FileState, KnownContent, NewFile, NewStoredFile,
    NewUpload, StoredContent, StoredFile,
};
pub use import::go_database::{GoDatabase, GoFile, GoPart, GoTables, GoTaskCount};
pub use import::{ImportContent, ImportFile, ImportOutcome, ImportPart, ImportTarget};
pub use tasks::kind::{BlobPayload, TaskKind};
pub use tasks::list::TaskFilter;
pub use tasks::{Attempt, AttemptOutcome, AttemptResult, ClaimedTask, NewTask, TaskRecord, TaskState};
pub use uploads::complete::{CompleteOutcome, CompleteRequest};
pub use uploads::expected_digests::ExpectedDigests;
pub use uploads::inspection::{CompletePreconditions, Inspection, InspectionResult};
pub use uploads::multipart::{LostParts, MultipartSlot, MultipartUpload};
pub use uploads::parts::{
    BeginPartOutcome, FinishPartOutcome, PartIntent, PartMismatch, ReceivedPart, StoredPart,
};
pub use uploads::placement::PartsStore;
pub use uploads::possession::ChallengeRecord;
pub use uploads::reservations::OpenUploads;
pub use uploads::status::UploadProgress;
pub use uploads::whole::{BeginUploadOutcome, ReleasedReservation, StoreOutcome, WriteIntent};

use access::quotas::Quotas;
use db::clock::Clock;
use db::instrumented::InstrumentedReader;
use db::reserve::Reserve;
use db::server_pool::{Reader, ServerPool};
use db::write_batcher::{TxEnd, WriteBatcher};
use files::cache::FileCache;
use osproxy_types::uid::Uid;
use tasks::kind::TaskSeed;

/// This node's handle to the metadata database.
pub struct Meta {
    reader: InstrumentedReader,
    writer: Writer,
    clock: Clock,
    node_stores: Arc<NodeStores>,
    /// Cached files. The content of a uid never changes once stored, so an entry becomes stale only
    /// when its file is deleted or updated, its links are revoked or its object moves.
    file_cache: FileCache,
    quotas: Arc<Quotas>,
    /// Attempts of the tasks that transactions enqueue.
    max_task_attempts: u32,
    /// Disk space reserved for the SQLite file; `None` for a server and for read-only tools.
    reserve: Option<Arc<Reserve>>,
    listener: OnceLock<Listener>,
}

/// The write path.
enum Writer {
    /// SQLite: one connection, fed by a queue.
    Embedded(WriteBatcher),
    /// A database server: a pool of connections; the server isolates transactions.
    Server(Arc<ServerPool>),
}

/// The name of this process in the database, and the stores whose objects it can access.
#[derive(Clone, Debug, Default)]
pub struct NodeStores {
    /// Unique name of this process.
    pub node: String,
    /// The accessible stores. New files go to the first one.
    pub stores: Vec<LocalStore>,
    clock: Clock,
}

/// A store whose objects this process can access.
#[derive(Clone, Debug)]
pub struct LocalStore {
    /// Name in the database, at most 16 bytes.
    pub name: String,
    /// Part size limits of the store's own multipart uploads or preallocated files; `None` if it
    /// has neither.
    pub part_sizes: Option<PartSizeLimits>,
    /// Whether new objects go to shard folders of their category.
    pub has_shards: bool,
}

/// Part size limits, in bytes, of a store that assembles parts itself.
#[derive(Clone, Copy, Debug)]
pub struct PartSizeLimits {
    /// Minimum size of every part but the last.
    pub min: u64,
    /// Maximum size of any part.
    pub max: u64,
    /// Whether parts are slots of a preallocated object. Then a part can be written only once the
    /// total size and the part size are known.
    pub preallocated: bool,
}

impl NodeStores {
    /// New files go to the first of `stores`.
    pub fn new(node: String, stores: Vec<LocalStore>) -> Self {
        Self { node, stores, clock: Clock::default() }
    }

    fn store(&self, name: &str) -> Option<&LocalStore> {
        self.stores.iter().find(|here| here.name == name)
    }

    fn store_names(&self) -> impl Iterator<Item = &str> {
        self.stores.iter().map(|here| here.name.as_str())
    }

    fn default_store(&self) -> &str {
        self.store_names().next().unwrap_or_default()
    }

    /// Returns the key for a new object in `store` that holds a whole blob. `name` is the file
    /// name; it determines category and extension.
    fn whole_key(&self, store: &str, name: &str, blob_id: i64) -> Key {
        let key = Key::whole(Category::of_object(name), blob_id, extension(name).as_deref());
        self.shard_key(store, key, blob_id)
    }

    /// Returns the key for a new object in `store` that holds one part of a blob; see
    /// [`Key::part`].
    fn part_key(&self, store: &str, name: &str, blob_id: i64, number: u32, write_id: Option<i64>) -> Key {
        self.shard_key(store, Key::part(Category::of_object(name), blob_id, number, write_id), blob_id)
    }

    fn shard_key(&self, store: &str, key: Key, blob_id: i64) -> Key {
        if self.store(store).is_some_and(|store| store.has_shards) { key.in_shard(blob_id) } else { key }
    }
}

/// An invalidation: what caches must evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// The file was deleted or updated, or its links were revoked.
    File(Uid),
    /// The bytes of the blob moved or are gone: evict all its files.
    Blob(i64),
}

/// Settings of a database handle.
#[derive(Clone, Debug)]
pub struct DatabaseOptions {
    /// The stores that this process can access.
    pub node_stores: NodeStores,
    /// Limits of the file cache.
    pub cache: CacheLimits,
    /// Number of attempts before a task is dead.
    pub max_task_attempts: u32,
}

/// Called for every invalidation that this node causes.
type Listener = Box<dyn Fn(Invalidation) + Send + Sync>;

/// Limits of the file cache.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Maximum number of files.
    pub max_entries: usize,
    /// Maximum age of an entry.
    pub max_age: Duration,
}

impl Meta {
    /// Opens the database and migrates its schema. Creates a missing SQLite file, but not a
    /// database on a server.
    pub async fn open(location: &DatabaseLocation, options: DatabaseOptions) -> Result<Self, MetaError> {
        match location {
            DatabaseLocation::File(path) => {
                let writer = db::dialect::sqlite_writer(path).await?;
                db::migrate::migrate_schema(&writer).await?;
                let database = path.clone();
                let reserve = tokio::task::spawn_blocking(move || Arc::new(Reserve::create(&database))).await;
                let reserve = reserve.map_err(|error| DbErr::Custom(error.to_string()))?;
                Ok(Self::on_file(writer, path, options, Some(reserve)).await?)
            }
            DatabaseLocation::Server(server) => {
                db::migrate::migrate_server(server).await?;
                Ok(Self::on_server(server, options).await?)
            }
        }
    }

    /// Opens a database that a running service may be using, for read-only tools and administration
    /// commands. Leaves the schema alone and fails if it is not the one of this version. `node_stores`
    /// lists the stores that the caller can read.
    pub async fn open_existing(
        location: &DatabaseLocation,
        options: DatabaseOptions,
    ) -> Result<Self, MetaError> {
        match location {
            DatabaseLocation::File(path) => {
                let writer = db::dialect::sqlite_writer(path).await?;
                db::migrate::ensure_current(&writer).await?;
                Ok(Self::on_file(writer, path, options, None).await?)
            }
            DatabaseLocation::Server(server) => {
                let connection = db::migrate::single_connection(server).await?;
                db::migrate::ensure_current(&connection).await?;
                connection.close().await?;
                Ok(Self::on_server(server, options).await?)
            }
        }
    }

    /// Returns an error message for a database that cannot be opened.
    pub fn open_error_message(location: &DatabaseLocation, error: &MetaError) -> String {
        match location {
            DatabaseLocation::File(path) => {
                format!("cannot open the database {}: {}", path.display(), error.driver())
            }
            DatabaseLocation::Server(server) => db::dialect::open_error_message(server, error.driver()),
        }
    }

    async fn on_file(
        writer: DatabaseConnection,
        path: &Path,
        options: DatabaseOptions,
        reserve: Option<Arc<Reserve>>,
    ) -> Result<Self, DbErr> {
        let reconnect_path = path.to_owned();
        let connect = Box::new(move || -> BoxFuture<'static, _> {
            let path = reconnect_path.clone();
            Box::pin(async move { db::dialect::sqlite_writer(&path).await })
        });
        let queue = WriteBatcher::start(writer, connect, reserve.clone())
            .map_err(|error| DbErr::Custom(error.to_string()))?;
        Ok(Self {
            reader: InstrumentedReader::new(Reader::Embedded(db::dialect::sqlite_reader(path).await?)),
            writer: Writer::Embedded(queue),
            clock: options.node_stores.clock.clone(),
            node_stores: Arc::new(options.node_stores),
            file_cache: FileCache::new(options.cache),
            quotas: Arc::default(),
            max_task_attempts: options.max_task_attempts,
            reserve,
            listener: OnceLock::new(),
        })
    }

    async fn on_server(server: &DatabaseServer, options: DatabaseOptions) -> Result<Self, DbErr> {
        let pool = db::dialect::server_options(server)?;
        let timeout = server.timeout;
        let server = ServerPool::connect(pool, timeout, server.max_idle_connections).await?;
        let meta = Self {
            reader: InstrumentedReader::new(Reader::Server(server.clone())),
            writer: Writer::Server(server),
            clock: options.node_stores.clock.clone(),
            node_stores: Arc::new(options.node_stores),
            file_cache: FileCache::new(options.cache),
            quotas: Arc::default(),
            max_task_attempts: options.max_task_attempts,
            reserve: None,
            listener: OnceLock::new(),
        };
        meta.clock.sync(&meta.reader).await?;
        Ok(meta)
    }

    /// Registers `listener`, which is called for every invalidation that this node causes. Only the
    /// first call has an effect.
    pub fn on_invalidate(&self, listener: impl Fn(Invalidation) + Send + Sync + 'static) {
        // A second call is a bug, but it must not break the first listener.
        let _ = self.listener.set(Box::new(listener));
    }

    /// Evicts what another node has changed.
    pub fn invalidate(&self, change: Invalidation) {
        match change {
            Invalidation::File(uid) => self.file_cache.evict_file(uid),
            Invalidation::Blob(blob_id) => self.file_cache.evict_blob(blob_id),
        }
    }

    /// Clears the cache and enables or disables it. It must be disabled while invalidations of
    /// other nodes cannot be received.
    pub fn set_cache_enabled(&self, heard: bool) {
        self.file_cache.set_enabled(heard);
    }

    fn invalidate_everywhere(&self, change: Invalidation) {
        self.invalidate(change);
        if let Some(listener) = self.listener.get() {
            listener(change);
        }
    }

    /// Current time of the database's clock, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    fn task_seed(&self, id: Uid) -> TaskSeed {
        TaskSeed { id, max_attempts: self.max_task_attempts, now: self.clock.now_ms() }
    }

    /// Whether the disk of the database is full. Deletions can still be recorded; reject everything
    /// else.
    pub fn is_disk_full(&self) -> bool {
        self.reserve.as_ref().is_some_and(|reserve| reserve.is_spent())
    }

    /// Checks that the database can be read and written.
    pub async fn ping(&self) -> Result<(), MetaError> {
        self.reader.execute_unprepared("SELECT 1").await?;
        self.write(|_| Box::pin(async { Ok(()) })).await
    }

    /// Acquires a cluster-wide lock, held until the returned connection is dropped. Fails if
    /// another node holds it for longer than `wait`. SQLite has one writing process and needs no
    /// lock.
    async fn lock(
        &self,
        lock: db::dialect::Lock,
        wait: Duration,
    ) -> Result<Option<DatabaseConnection>, MetaError> {
        match &self.writer {
            Writer::Embedded(_) => Ok(None),
            Writer::Server(server) => Ok(Some(server.lock(lock, wait).await?)),
        }
    }

    /// Runs `work` in a transaction and returns once it is committed durably. An `Err` from `work`
    /// rolls everything back. `work` may run more than once, each time after a rollback. It
    /// completes even if the caller stops waiting.
    async fn write<T, W>(&self, work: W) -> Result<T, MetaError>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<T, DbErr>> + Send + Sync + 'static,
    {
        let committing = self.write_or_rollback(move |transaction| {
            let outcome = work(transaction);
            Box::pin(async { outcome.await.map(TxEnd::Commit) })
        });
        committing.await
    }

    /// Like [`write`](Self::write), but `work` can also return an outcome and roll back.
    async fn write_or_rollback<T, W>(&self, work: W) -> Result<T, MetaError>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<TxEnd<T>, DbErr>>
            + Send
            + Sync
            + 'static,
    {
        let transaction = async {
            match &self.writer {
                Writer::Embedded(queue) => queue.run(work).await,
                Writer::Server(server) => {
                    let server = server.clone();
                    let writing = tokio::spawn(async move { server.write(work).await });
                    writing.await.map_err(|error| DbErr::Custom(error.to_string()))?
                }
            }
        };
        Ok(self.reader.measure_write(transaction).await?)
    }
}

/// Migrates the schema of a database to this version.
pub async fn migrate(location: &DatabaseLocation) -> Result<(), MetaError> {
    match location {
        DatabaseLocation::File(path) => {
            Ok(db::migrate::migrate_schema(&db::dialect::sqlite_writer(path).await?).await?)
        }
        DatabaseLocation::Server(server) => Ok(db::migrate::migrate_server(server).await?),
    }
}

/// Current time of this process's clock, in milliseconds since the Unix epoch. All timestamps in
/// the database have this unit.
pub fn now_ms() -> i64 {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    i64::try_from(now).unwrap_or(i64::MAX)
}
