//! Creation of files, with or without content.

use std::sync::Arc;

use osproxy_storage::Category;
use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, TryIntoModel,
};

use crate::MetaError;
use crate::{
    EventKind, ExpectedDigests, FileDb, FileMetadata, FileState, NewObject, NodeStores,
    access::{
        quotas::{Quotas, record_bytes},
        upload_grants::{self, GrantRefusal},
    },
    blobs::{self, encode_digest},
    boxed_future,
    db::{
        entities::{blob, file, object_upload},
        write_batcher::TxEnd,
    },
    events::record::{EventContent, EventRecorder, FileEvent},
    files::listing,
    now_ms,
    objects::bind,
    processing,
};

/// A file to be created.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// Uid.
    pub uid: Uid,
    /// Owner.
    pub tenant: Tenant,
    /// File name.
    pub name: String,
    /// What the client announced about the content.
    pub announced: AnnouncedContent,
    /// The upload grant under which the file is created.
    pub grant: Option<FileGrant>,
}

/// The upload grant of a new file.
#[derive(Clone, Debug)]
pub struct FileGrant {
    /// Id of the grant.
    pub id: Uid,
    /// MIME types or families, separated by commas, one of which the content must have; at most
    /// 1,024 bytes.
    pub required_types: Option<String>,
}

/// A file to be created. It can share stored content from the start (instant upload).
#[derive(Clone, Debug)]
pub struct NewUpload {
    /// The file.
    pub file: NewFile,
    /// Content for the file to share. If the content is no longer stored when the file is created,
    /// the file accepts an upload instead.
    pub known_content: Option<KnownContent>,
}

/// A file to be created only if the content to share is still stored.
#[derive(Clone, Debug)]
pub struct NewStoredFile {
    /// The file.
    pub file: NewFile,
    /// The content to share.
    pub content: KnownContent,
}

/// Content that is already stored.
#[derive(Clone, Debug)]
pub struct KnownContent {
    /// Blob id.
    pub blob_id: i64,
    /// Size in bytes.
    pub size: u64,
    /// MIME type for the file.
    pub content_type: String,
}

/// Outcome of creating files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// All files were created. For each file, in order: `true` if the file shares its known content
    /// and is therefore stored.
    Created(Vec<bool>),
    /// No file was created: one of the uids is already in use.
    UidTaken,
    /// No file was created: the tenant's quota would be exceeded.
    OverQuota,
    /// No file was created: the upload grant does not allow it.
    Refused(GrantRefusal),
}

/// What the client announces about the content before sending it.
#[derive(Clone, Debug, Default)]
pub struct AnnouncedContent {
    /// Total size in bytes.
    pub size: Option<u64>,
    /// Size of each part except the last, in bytes. Set only together with `size`.
    pub part_size: Option<u64>,
    /// MIME type; if unset, it is detected from the content.
    pub content_type: Option<String>,
    /// Expected digests.
    pub expected: ExpectedDigests,
    /// Metadata set by the owner.
    pub metadata: FileMetadata,
    /// Whether this is a partial upload, whose parts become parts of another file.
    pub is_partial: bool,
    /// The object that the file becomes.
    pub object: Option<Arc<NewObject>>,
}

/// Bytes that a tenant is charged for the row of a file, in addition to the content.
pub fn row_charge_of(name: &str, announced: &AnnouncedContent) -> u64 {
    let row = record_bytes(name, listing::encode_metadata(&announced.metadata).as_deref());
    let object = announced.object.as_ref().map_or(0, |object| object.charge());
    row.saturating_add(object).unsigned_abs()
}

/// Maximum distance between a file's `created_at` and the time in its uid, in milliseconds.
const MAX_CLOCK_SKEW_MS: i64 = 10 * 60_000;

impl FileDb {
    /// Creates files of one tenant, all or none. If the known content of a file is still stored,
    /// the file shares this content and is `stored` (or `processing`) from the start. All other files are `pending`
    /// or `partial` and accept content until `expires_at` (milliseconds since the Unix epoch). Charges
    /// the tenant for the rows and for the known or announced sizes. All files are created under the
    /// same upload grant, or none.
    #[boxed_future]
    pub async fn create(&self, uploads: Vec<NewUpload>, expires_at: i64) -> Result<CreateOutcome, MetaError> {
        let (generation, uids) =
            (self.db.file_cache.generation(), uploads.iter().map(|upload| upload.file.uid));
        let uids: Vec<_> = uids.collect();
        let (quotas, node_stores) = (self.db.quotas.clone(), self.db.node_stores.clone());
        let recorder = self.db.event_recorder();
        let created = self.db.write_or_rollback(move |transaction| {
            let (uploads, quotas, recorder) = (uploads.clone(), quotas.clone(), recorder.clone());
            let node_stores = node_stores.clone();
            Box::pin(async move {
                create(transaction, &uploads, expires_at, &quotas, &recorder, &node_stores).await
            })
        });
        let created = created.await;
        self.db.content_completed();
        let stored = match created {
            Ok(CreateOutcome::Created(stored)) => stored,
            Ok(other) => return Ok(other),
            Err(MetaError::Conflict(_)) => return Ok(CreateOutcome::UidTaken),
            Err(error) => return Err(error),
        };
        for (uid, _) in uids.into_iter().zip(&stored).filter(|(_, is_stored)| !**is_stored) {
            self.db.file_cache.insert_links_from(uid, 0, generation);
        }
        Ok(CreateOutcome::Created(stored))
    }

    /// Creates files of one tenant that share stored content. Returns for each file whether it was
    /// created; a file is skipped if its content is no longer stored. Returns `None` and creates no
    /// file if the tenant's quota would be exceeded.
    #[boxed_future]
    pub async fn create_stored(&self, files: Vec<NewStoredFile>) -> Result<Option<Vec<bool>>, MetaError> {
        let (quotas, recorder) = (self.db.quotas.clone(), self.db.event_recorder());
        let node_stores = self.db.node_stores.clone();
        let outcome = self
            .db
            .write_or_rollback(move |transaction| {
                let (files, quotas, recorder) = (files.clone(), quotas.clone(), recorder.clone());
                let node_stores = node_stores.clone();
                Box::pin(async move {
                    let (mut created, mut charge) = (Vec::with_capacity(files.len()), 0_i64);
                    for NewStoredFile { file, content } in &files {
                        let is_stored = blobs::add_references(transaction, content.blob_id, 1, None).await?;
                        if is_stored {
                            let row = stored_row(file, content, node_stores.processing.completed_state());
                            file::Entity::insert(row.clone()).exec_without_returning(transaction).await?;
                            record_created(transaction, vec![row], &recorder).await?;
                            let blob_id = content.blob_id;
                            processing::enqueue_first(transaction, &node_stores, file.uid, blob_id).await?;
                            charge =
                                charge.saturating_add_unsigned(content.size).saturating_add(row_charge(file));
                        }
                        created.push(is_stored);
                    }
                    let tenant = files.first().map_or("", |first| first.file.tenant.as_str());
                    Ok(quotas
                        .charge(transaction, tenant, charge)
                        .await?
                        .commit_or_roll_back(Some(created), None))
                })
            })
            .await;
        self.db.content_completed();
        outcome
    }
}

/// Inserts files, unless the quota would be exceeded or the upload grant does not allow them.
async fn create(
    transaction: &DatabaseTransaction,
    uploads: &[NewUpload],
    expires_at: i64,
    quotas: &Quotas,
    recorder: &EventRecorder,
    node_stores: &NodeStores,
) -> Result<TxEnd<CreateOutcome>, DbErr> {
    let now = node_stores.clock.now_ms();
    let (mut rows, mut stored, mut charge, mut row_charges) = (Vec::new(), Vec::new(), 0_u64, 0_i64);
    let mut complete = Vec::new();
    for NewUpload { file, known_content: shared } in uploads {
        let shared = match shared {
            Some(shared) if blobs::add_references(transaction, shared.blob_id, 1, None).await? => {
                Some(shared)
            }
            _ => None,
        };
        let size = shared.map_or(file.announced.size, |shared| Some(shared.size));
        charge = charge.saturating_add(size.unwrap_or(0));
        row_charges = row_charges.saturating_add(row_charge(file));
        stored.push(shared.is_some());
        complete.extend(shared.map(|shared| (file.uid, shared.blob_id)));
        rows.push(match shared {
            Some(shared) => stored_row(file, shared, node_stores.processing.completed_state()),
            None => pending_row(file, expires_at),
        });
    }
    file::Entity::insert_many(rows.clone()).exec_without_returning(transaction).await?;
    for NewUpload { file, .. } in uploads {
        if let Some(object) = &file.announced.object {
            let row = bind::upload_row(file.uid, object, now);
            object_upload::Entity::insert(row).exec_without_returning(transaction).await?;
        }
    }
    record_created(transaction, rows, recorder).await?;
    for (uid, blob_id) in complete {
        processing::enqueue_first(transaction, node_stores, uid, blob_id).await?;
    }
    let grant = uploads.first().and_then(|upload| upload.file.grant.as_ref());
    if let Some(grant) = grant
        && let Some(refusal) = upload_grants::count_uploads(transaction, grant.id, uploads.len(), now).await?
    {
        return Ok(TxEnd::Rollback(CreateOutcome::Refused(refusal)));
    }
    let tenant = uploads.first().map_or("", |upload| upload.file.tenant.as_str());
    let charge = i64::try_from(charge).unwrap_or(i64::MAX).saturating_add(row_charges);
    let charged = quotas.charge(transaction, tenant, charge).await?;
    Ok(charged.commit_or_roll_back(CreateOutcome::Created(stored), CreateOutcome::OverQuota))
}

/// Records that files were created, and that those which share stored content are complete.
pub(crate) async fn record_created(
    transaction: &DatabaseTransaction,
    rows: Vec<file::ActiveModel>,
    recorder: &EventRecorder,
) -> Result<(), DbErr> {
    if !recorder.is_enabled() {
        return Ok(());
    }
    let files: Result<Vec<_>, _> = rows.into_iter().map(TryIntoModel::try_into_model).collect();
    let files: Vec<file::Model> = files?;
    let blob_ids: Vec<_> = files.iter().filter_map(|file| file.blob_id).collect();
    let blobs = if blob_ids.is_empty() {
        Vec::new()
    } else {
        blob::Entity::find().filter(blob::Column::Id.is_in(blob_ids)).all(transaction).await?
    };
    let content_of = |file: &file::Model| blobs.iter().find(|blob| Some(blob.id) == file.blob_id);
    let events = files.iter().filter(|file| file.state != file::State::Partial).flat_map(|file| {
        let content = content_of(file).map(EventContent::of_blob);
        let created = content.unwrap_or(EventContent::announced(file));
        let completed = content.filter(|_| file.state == file::State::Stored);
        let completed = completed.map(|content| FileEvent::new(EventKind::FileCompleted, file, content));
        [Some(FileEvent::new(EventKind::FileCreated, file, created)), completed].into_iter().flatten()
    });
    recorder.record_files(transaction, events).await
}

/// Bytes charged to the tenant for the row of a file itself.
pub(crate) fn row_charge(file: &NewFile) -> i64 {
    row_charge_of(&file.name, &file.announced).cast_signed()
}

/// Creation time for a file's row: the current time, but at most `MAX_CLOCK_SKEW_MS` away from the
/// time in the uid, even if this machine's clock is wrong. Listings rely on this limit.
fn created_at(uid: Uid) -> i64 {
    let issued_at = uid.timestamp_ms().cast_signed();
    now_ms().clamp(issued_at.saturating_sub(MAX_CLOCK_SKEW_MS), issued_at.saturating_add(MAX_CLOCK_SKEW_MS))
}

/// Row of a file without content.
pub(crate) fn pending_row(file: &NewFile, expires_at: i64) -> file::ActiveModel {
    let is_partial = file.announced.is_partial;
    file::ActiveModel {
        uid: Set(file.uid.get()),
        tenant: Set(file.tenant.to_string()),
        name: Set(file.name.clone()),
        state: Set(if is_partial { file::State::Partial } else { file::State::Pending }),
        blob_id: Set(None),
        part_count: Set(None),
        content_type: Set(file.announced.content_type.clone().unwrap_or_default()),
        expires_at: Set(expires_at),
        created_at: Set(created_at(file.uid)),
        stored_at: Set(None),
        announced_size: Set(file.announced.size.map(u64::cast_signed)),
        part_size: Set(file.announced.part_size.map(u64::cast_signed)),
        claimed_md5: Set(encode_digest(file.announced.expected.md5)),
        claimed_sha256: Set(encode_digest(file.announced.expected.sha256)),
        claimed_blake3: Set(encode_digest(file.announced.expected.blake3)),
        listed: Set(i32::from(!is_partial)),
        category: Set(Category::of_name(&file.name).as_str().to_owned()),
        name_start: Set(Some(listing::name_start(&file.name))),
        metadata: Set(listing::encode_metadata(&file.announced.metadata)),
        links_from: Set(None),
        stored_by: Set(None),
        received_as: Set(None),
        received_from: Set(None),
        received_until: Set(None),
        received_nodes: Set(None),
        charged: Set(file.announced.size.map_or(0, u64::cast_signed)),
        received: Set(0),
        required_type: Set(None),
        record_bytes: Set(row_charge(file)),
        grant_id: Set(file.grant.as_ref().map(|grant| grant.id.get())),
        required_types: Set(file.grant.as_ref().and_then(|grant| grant.required_types.clone())),
        final_uid: Set(None),
        partial_uids: Set(None),
        media: Set(None),
        verdict: Set(None),
        bucket_id: Set(file.announced.object.as_ref().map(|object| object.bucket_id.get())),
    }
}

/// Row of a file that shares stored content. Its state is `stored` or `processing`.
pub(crate) fn stored_row(file: &NewFile, content: &KnownContent, state: FileState) -> file::ActiveModel {
    let created_at = created_at(file.uid);
    file::ActiveModel {
        charged: Set(content.size.cast_signed()),
        state: Set(state),
        blob_id: Set(Some(content.blob_id)),
        content_type: Set(content.content_type.clone()),
        created_at: Set(created_at),
        stored_at: Set(Some(created_at)),
        ..pending_row(file, created_at)
    }
}
