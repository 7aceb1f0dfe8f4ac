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
mod ids;
mod import;
mod open;
mod stores;
mod tasks;
#[cfg(test)]
mod tests;
mod uploads;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::BoxFuture;
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
pub use blobs::deletion::DeletingBlob;
pub use blobs::merges::{BeginMergeOutcome, MergeIntent, MergeOutcome, WholeBlob};
pub use blobs::orphans::{ObjectRowKind, PendingDelete, UnfinishedRow};
pub use blobs::stored_parts::StoredPart;
pub use blobs::verification::UnverifiedBlob;
pub use db::exclusive_lock::ExclusiveLock;
pub use db::location::{DatabaseLocation, DatabaseServer, DatabaseTarget, ServerKind, TlsMode};
pub use db::metrics::{DatabaseSnapshot, OperationSnapshot};
pub use error::{DriverError, MetaError};
pub use files::FileState;
pub use files::create::{AnnouncedContent, CreateOutcome, KnownContent, NewFile, NewStoredFile, NewUpload};
pub use files::delete::DeleteOutcome;
pub use files::listing::{FileFilter, FileMetadata, FilePosition, FileRecord, MAX_PREFIX};
pub use files::stored::{ContentLayout, StoredContent, StoredFile};
pub use files::update::{CopyOutcome, MetadataEdit, UpdateOutcome};
pub use import::go_database::{GoDatabase, GoFile, GoPart, GoTables, GoTaskCount};
pub use import::{ImportContent, ImportFile, ImportOutcome, ImportPart, ImportTarget};
pub use open::{CacheLimits, DatabaseOptions, migrate};
pub use stores::{LocalStore, NodeStores, PartSizeLimits};
pub use tasks::kind::{BlobPayload, TaskKind};
pub use tasks::list::TaskFilter;
pub use tasks::{Attempt, AttemptOutcome, AttemptResult, ClaimedTask, NewTask, TaskRecord, TaskState};
pub use uploads::complete::{CompleteOutcome, CompleteRequest};
pub use uploads::expected_digests::ExpectedDigests;
pub use uploads::inspection::{CompletePreconditions, Inspection, InspectionResult};
pub use uploads::multipart::{LostParts, MultipartSlot, MultipartUpload};
pub use uploads::parts::{BeginPartOutcome, FinishPartOutcome, PartIntent, PartMismatch, ReceivedPart};
pub use uploads::placement::PartsStore;
pub use uploads::possession::ChallengeRecord;
pub use uploads::reservations::OpenUploads;
pub use uploads::status::UploadProgress;
pub use uploads::whole::{BeginUploadOutcome, ReleasedReservation, StoreOutcome, WriteIntent};

use access::quotas::Quotas;
use db::clock::Clock;
use db::instrumented::InstrumentedReader;
use db::reserve::Reserve;
use db::server_pool::ServerPool;
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

/// An invalidation: what caches must evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// The file was deleted or updated, or its links were revoked.
    File(Uid),
    /// The bytes of the blob moved or are gone: evict all its files.
    Blob(i64),
}

/// Called for every invalidation that this node causes.
type Listener = Box<dyn Fn(Invalidation) + Send + Sync>;

impl Meta {
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
    pub fn set_cache_enabled(&self, is_enabled: bool) {
        self.file_cache.set_enabled(is_enabled);
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
        lock: db::database_lock::DatabaseLock,
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

/// Current time of this process's clock, in milliseconds since the Unix epoch. All timestamps in
/// the database have this unit.
pub fn now_ms() -> i64 {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    i64::try_from(now).unwrap_or(i64::MAX)
}
