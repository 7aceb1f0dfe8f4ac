//! Metadata: the only crate that contains SQL.
//!
//! [`Meta`] has a handle for each domain: [`FileDb`], [`UploadDb`], [`BlobDb`], [`TaskDb`],
//! [`EventDb`], [`ProcessingDb`], [`AccessDb`], [`TenantDb`], [`IdempotencyDb`], [`AdminDb`],
//! [`WebhookDb`], [`ObjectDb`] and [`ImportDb`]. All handles share
//! one `Database`, which holds the connections, the clock and the caches. The methods of a handle
//! are in the folder of its domain, one file per topic. The folder `access` contains the handles
//! for access, tenants and idempotency keys.
//!
//! State changes that can race with each other are conditional `UPDATE`s that name the expected
//! state. If such an update affects no row, another transaction was faster. Callers pass values in
//! and get an outcome back; they never see a connection.

mod access;
mod admin;
mod blobs;
#[cfg(test)]
mod contract;
mod db;
mod error;
mod events;
mod files;
mod ids;
mod import;
mod objects;
mod open;
mod processing;
mod stores;
mod tasks;
#[cfg(test)]
mod tests;
mod uploads;
mod webhooks;

use std::sync::Arc;

use osproxy_types::boxed_future;

pub use access::api_keys::ApiKeyRecord;
pub use access::idempotency::{IdempotentRequest, KeyAcquisition, RecordedAnswer};
pub use access::link_keys::LinkKeyRecord;
pub use access::quotas::QuotaUsage;
pub use access::s3_keys::S3KeyRecord;
pub use access::tenants::TenantUsage;
pub use access::upload_grants::{GrantRecord, GrantRefusal};
pub use access::{AccessDb, IdempotencyDb, TenantDb};
pub use admin::AdminDb;
pub use admin::history::{BlobHistory, FileHistory, PartHistory};
pub use admin::integrity::{BlobLayout, BlobRecord, BlobState, ContentRecord, PartRecord, PartState};
pub use admin::keys::KeyRecord;
pub use admin::stats::DatabaseStats;
pub use blobs::blake3_tree::PartDigests;
pub use blobs::deletion::DeletingBlob;
pub use blobs::merges::{BeginMergeOutcome, MergeIntent, MergeOutcome, WholeBlob};
pub use blobs::orphan_rows::{ObjectRowKind, PendingDelete, UnfinishedRow, UnusedSlot};
pub use blobs::packs::PackedMove;
pub use blobs::stored_parts::StoredPart;
pub use blobs::verification::UnverifiedBlob;
pub use blobs::{Blob, BlobDb};
pub use db::exclusive_lock::ExclusiveLock;
pub use db::location::{DatabaseLocation, DatabaseServer, DatabaseTarget, ServerKind, TlsMode};
pub use db::metrics::{DatabaseSnapshot, OperationSnapshot};
pub use error::{DriverError, MetaError};
pub use events::read::{Event, EventFilter, EventHeader, EventHeaderPage, EventPage};
pub use events::source::EventSource;
pub use events::{EventDb, EventKind};
pub use files::create::{
    AnnouncedContent, CreateOutcome, FileGrant, KnownContent, NewFile, NewStoredFile, NewUpload,
    row_charge_of,
};
pub use files::delete::DeleteOutcome;
pub use files::listing::{FileFilter, FileMetadata, FilePosition, FileRecord, MAX_PREFIX};
pub use files::stored::{ContentLayout, StoredContent, StoredFile};
pub use files::update::{CopyOutcome, MetadataEdit, NewCopy, UpdateOutcome};
pub use files::{FileDb, FileState};
pub use import::go_database::{GoDatabase, GoFile, GoPart, GoTables, GoTaskCount};
pub use import::{ImportContent, ImportDb, ImportFile, ImportOutcome, ImportPart, ImportTarget};
pub use objects::{
    AttachOutcome, AttributesEdit, BucketChanges, BucketRecord, BucketSummary, CompletedUpload,
    CreateBucketOutcome, DeleteBucketOutcome, EditAttributesOutcome, LifecycleBucket, ListObjects,
    ListedObject, MAX_OBJECT_KEY, NewObject, ObjectCondition, ObjectDb, ObjectEntry, ObjectName, ObjectPage,
    ObjectRecord, ObjectRefusal, ObjectUploadRecord, PartSelection, UploadedPart, etag_of_parts,
};
pub use open::{CacheLimits, DatabaseOptions, migrate};
pub use processing::quarantine::QuarantinedFile;
pub use processing::rescan::{FileToProcess, RescanFilter};
pub use processing::verdict::{AcceptedFile, NextSteps, Refusal, VerdictOutcome};
pub use processing::{ProcessPayload, ProcessSteps, ProcessingDb, ProcessingFile, ProcessingPolicy};
pub use stores::{LocalStore, NodeStores, PartSizeLimits};
pub use tasks::kind::{BlobPayload, TaskKind};
pub use tasks::list::TaskFilter;
pub use tasks::{
    Attempt, AttemptOutcome, AttemptResult, ClaimedTask, NewTask, TaskDb, TaskRecord, TaskState,
};
pub use uploads::UploadDb;
pub use uploads::append::{AnnounceSizeOutcome, AppendPosition, SuspendPartOutcome, SuspendedPart};
pub use uploads::complete_parts::{CompleteOutcome, CompleteRequest};
pub use uploads::concatenation::{ConcatenateOutcome, Concatenation, NewFinalUpload, PartialProblem};
pub use uploads::expected_digests::ExpectedDigests;
pub use uploads::inspection::{CompletePreconditions, Inspection, InspectionResult};
pub use uploads::multipart::{LostParts, MultipartSlot, MultipartUpload};
pub use uploads::packed::{CreatePackedOutcome, OpenUpload, PackedBlob};
pub use uploads::parts::{BeginPartOutcome, FinishPartOutcome, PartIntent, PartMismatch, ReceivedPart};
pub use uploads::placement::PartsStore;
pub use uploads::possession::ChallengeRecord;
pub use uploads::reservations::OpenUploads;
pub use uploads::status::UploadProgress;
pub use uploads::whole::{BeginUploadOutcome, ReleasedReservation, StoreOutcome, WriteIntent};
pub use webhooks::deliveries::WebhookProgress;
pub use webhooks::endpoints::WebhookChanges;
pub use webhooks::{DeliveryRecord, DeliveryState, WebhookDb, WebhookRecord, WebhookState};

use db::database::Database;
use osproxy_types::uid::Uid;

/// The metadata database: a handle for each domain, and methods that concern the whole database. A
/// component that needs only one domain takes a clone of that domain's handle.
pub struct Meta {
    /// Files.
    pub files: FileDb,
    /// Upload sessions.
    pub uploads: UploadDb,
    /// Blobs.
    pub blobs: BlobDb,
    /// Tasks.
    pub tasks: TaskDb,
    /// Events.
    pub events: EventDb,
    /// Processing of complete files.
    pub processing: ProcessingDb,
    /// API keys and links.
    pub access: AccessDb,
    /// Tenants and their quotas.
    pub tenants: TenantDb,
    /// Idempotency keys.
    pub idempotency: IdempotencyDb,
    /// Statistics, history and integrity checks.
    pub admin: AdminDb,
    /// Webhooks and their deliveries.
    pub webhooks: WebhookDb,
    /// Buckets and objects.
    pub objects: ObjectDb,
    /// Import from another program.
    pub import: ImportDb,
    db: Arc<Database>,
}

/// A change that makes cache entries stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// The file was deleted or updated, or its links were revoked.
    File(Uid),
    /// The bytes of the blob moved or are gone: evict all files that share the blob.
    Blob(i64),
}

impl Meta {
    fn new(db: Database) -> Self {
        let db = Arc::new(db);
        Self {
            files: FileDb { db: db.clone() },
            uploads: UploadDb { db: db.clone() },
            blobs: BlobDb { db: db.clone() },
            tasks: TaskDb { db: db.clone() },
            events: EventDb { db: db.clone() },
            processing: ProcessingDb { db: db.clone() },
            access: AccessDb { db: db.clone() },
            tenants: TenantDb { db: db.clone() },
            idempotency: IdempotencyDb { db: db.clone() },
            admin: AdminDb { db: db.clone() },
            webhooks: WebhookDb { db: db.clone() },
            objects: ObjectDb { db: db.clone() },
            import: ImportDb { db: db.clone() },
            db,
        }
    }

    /// Registers `listener`, which is called for every invalidation that this node causes. Only the
    /// first call has an effect.
    pub fn on_invalidate(&self, listener: impl Fn(Invalidation) + Send + Sync + 'static) {
        // A second call is a bug, but it must not break the first listener.
        let _ = self.db.listener.set(Box::new(listener));
    }

    /// Registers `listener`, which is called after this node has enqueued tasks that process files.
    /// Only the first call has an effect.
    pub fn on_tasks_enqueued(&self, listener: impl Fn() + Send + Sync + 'static) {
        // A second call is a bug, but it must not break the first listener.
        let _ = self.db.task_listener.set(Box::new(listener));
    }

    /// Evicts the cache entries that a change on another node has made stale.
    pub fn invalidate(&self, change: Invalidation) {
        self.db.invalidate(change);
    }

    /// Clears the file cache, then enables or disables it. Disable it while this node cannot
    /// receive the invalidations that other nodes send.
    pub fn set_cache_enabled(&self, is_enabled: bool) {
        self.db.file_cache.set_enabled(is_enabled);
    }

    /// Current time of the database's clock, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        self.db.clock.now_ms()
    }

    /// Whether the disk of the SQLite file is full; always `false` for a database server. While
    /// this returns `true`, refuse uploads and copies: the reserved space is kept for deletions,
    /// updates and tasks.
    pub fn is_disk_full(&self) -> bool {
        self.db.reserve.as_ref().is_some_and(|reserve| reserve.is_spent())
    }

    /// Checks that the database answers a query and commits a transaction.
    #[boxed_future]
    pub async fn ping(&self) -> Result<(), MetaError> {
        self.db.ping().await
    }
}

/// Current time of this process's clock, in milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    i64::try_from(now).unwrap_or(i64::MAX)
}
