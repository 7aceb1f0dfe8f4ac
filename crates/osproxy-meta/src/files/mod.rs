pub(crate) mod cache;
pub(crate) mod delete;
pub(crate) mod listing;
pub(crate) mod update;

use std::{collections::HashMap, sync::Arc};

use osproxy_storage::{Category, Digests, Key, PartLayout, extension};
use osproxy_types::{content_type, tenant::Tenant, uid::Uid};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, sea_query::Expr,
};
use time::OffsetDateTime;

use crate::MetaError;
use crate::{
    ExpectedDigests, FileMetadata, Meta,
    access::quotas::{Quotas, record_bytes},
    blobs::{self, decode_digest, encode_digest},
    db::{
        entities::{blob, file, idempotency_key, part},
        write_batcher::TxEnd,
    },
    now_ms,
};

pub use file::State as FileState;

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
}

/// A file to be created, with content it may share from the start (instant upload).
#[derive(Clone, Debug)]
pub struct NewUpload {
    /// The file.
    pub file: NewFile,
    /// Stored content to share, if it is still stored when the file is created.
    pub known_content: Option<KnownContent>,
}

/// A file to be created only if the content that it shares is still stored.
#[derive(Clone, Debug)]
pub struct NewStoredFile {
    /// The file.
    pub file: NewFile,
    /// Its content.
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
    /// All were created. For each file: whether it is stored, that is, shares its known content.
    Created(Vec<bool>),
    /// None was created: one of the uids is already in use.
    UidTaken,
    /// None was created: the tenant's quota is exceeded.
    OverQuota,
}

/// What the client announces about content before sending it.
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
}

/// A stored file, with everything needed to read it. The bytes never change; their location may.
#[derive(Clone, Debug)]
pub struct StoredFile {
    /// Uid.
    pub uid: Uid,
    /// Owner.
    pub tenant: Tenant,
    /// File name.
    pub name: String,
    /// MIME type.
    pub content_type: String,
    /// When the content became complete, in milliseconds since the Unix epoch.
    pub stored_at: i64,
    /// Links issued before this time are revoked. In seconds since the Unix epoch.
    pub links_valid_from: Option<i64>,
    /// Content.
    pub content: StoredContent,
}

/// The content of a file.
#[derive(Clone, Debug)]
pub struct StoredContent {
    /// Blob id.
    pub blob_id: i64,
    /// Size in bytes.
    pub size: u64,
    /// Name of the store.
    pub store: String,
    /// Location in the store.
    pub layout: ContentLayout,
    /// Computed digests; `None` until all bytes are verified.
    pub digests: Option<Digests>,
    /// The MD5 that the client claimed.
    pub claimed_md5: Option<[u8; 16]>,
    /// Whether it was detected as UTF-8 text when it was received.
    pub is_utf8: bool,
}

impl StoredContent {
    /// Returns the computed MD5, or else the one that the client claimed.
    pub fn md5(&self) -> Option<[u8; 16]> {
        self.digests.and_then(|digests| digests.md5).or(self.claimed_md5)
    }
}

/// Location of content within a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentLayout {
    /// One object.
    Whole(Key),
    /// Several parts, see [`Meta::parts`].
    Parts,
}

impl StoredFile {
    /// The category under which the Go program would store its object.
    pub fn object_category(&self) -> Category {
        Category::of_object(&self.name)
    }

    /// The issue date for a new link: `now`, or later if links issued now would count as revoked.
    pub fn link_date(&self, now: OffsetDateTime) -> OffsetDateTime {
        let from = self.links_valid_from.and_then(|from| OffsetDateTime::from_unix_timestamp(from).ok());
        from.map_or(now, |from| now.max(from))
    }

    /// The extension of its name, as used in keys.
    pub fn extension(&self) -> Option<String> {
        extension(&self.name)
    }
}

/// Maximum distance between a file's `created_at` and the time in its uid, in milliseconds.
const CLOCKS: i64 = 10 * 60_000;

impl Meta {
    /// The highest id in use by files, blobs, parts, tasks and idempotency keys. New ids must be
    /// higher.
    pub async fn highest_id(&self) -> Result<Option<Uid>, MetaError> {
        let newest_file =
            file::Entity::find().select_only().column(file::Column::Uid).order_by_desc(file::Column::Uid);
        let newest_blob =
            blob::Entity::find().select_only().column(blob::Column::Id).order_by_desc(blob::Column::Id);
        let file: Option<i64> = newest_file.into_tuple().one(&self.reader).await?;
        let newest_part =
            part::Entity::find().select_only().column(part::Column::Id).order_by_desc(part::Column::Id);
        let blob: Option<i64> = newest_blob.into_tuple().one(&self.reader).await?;
        let part: Option<i64> = newest_part.into_tuple().one(&self.reader).await?;
        let newest_reserved = idempotency_key::Entity::find()
            .select_only()
            .column(idempotency_key::Column::Uid)
            .filter(idempotency_key::Column::Uid.is_not_null())
            .order_by_desc(idempotency_key::Column::Uid);
        let reserved: Option<i64> = newest_reserved.into_tuple().one(&self.reader).await?;
        let task = self.newest_task_id().await?;
        Ok(file.max(blob).max(part).max(task).max(reserved).map(Uid::from_db))
    }

    /// Creates files of one tenant, all or none. A file whose known content is still stored shares
    /// it and is stored at once; the others are `pending` and accept content until `expires_at`
    /// (milliseconds since the Unix epoch). Charges the tenant with the actual or announced size.
    pub async fn create_files(
        &self,
        uploads: Vec<NewUpload>,
        expires_at: i64,
    ) -> Result<CreateOutcome, MetaError> {
        let (generation, uids) = (self.file_cache.generation(), uploads.iter().map(|upload| upload.file.uid));
        let uids: Vec<_> = uids.collect();
        let quotas = self.quotas.clone();
        let created = self.write_or_rollback(move |transaction| {
            let (uploads, quotas) = (uploads.clone(), quotas.clone());
            Box::pin(async move { create(transaction, &uploads, expires_at, &quotas).await })
        });
        let stored = match created.await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(CreateOutcome::OverQuota),
            Err(MetaError::Conflict(_)) => {
                return Ok(CreateOutcome::UidTaken);
            }
            Err(error) => return Err(error),
        };
        for (uid, _) in uids.into_iter().zip(&stored).filter(|(_, is_stored)| !**is_stored) {
            self.file_cache.insert_links_from(uid, 0, generation);
        }
        Ok(CreateOutcome::Created(stored))
    }

    /// Creates files of one tenant that share stored content. Returns for each whether its content
    /// was still stored; the others are not created. Returns `None` and creates nothing if the
    /// tenant's quota is exceeded.
    pub async fn create_stored_files(
        &self,
        files: Vec<NewStoredFile>,
    ) -> Result<Option<Vec<bool>>, MetaError> {
        let quotas = self.quotas.clone();
        self.write_or_rollback(move |transaction| {
            let (files, quotas) = (files.clone(), quotas.clone());
            Box::pin(async move {
                let (mut created, mut charge) = (Vec::with_capacity(files.len()), 0_i64);
                for NewStoredFile { file, content } in &files {
                    let is_stored = blobs::add_references(transaction, content.blob_id, 1, None).await?;
                    if is_stored {
                        let row = stored_row(file, content);
                        file::Entity::insert(row).exec_without_returning(transaction).await?;
                        charge =
                            charge.saturating_add_unsigned(content.size).saturating_add(row_charge(file));
                    }
                    created.push(is_stored);
                }
                let tenant = files.first().map_or("", |new| new.file.tenant.as_str());
                Ok(quotas.charge(transaction, tenant, charge).await?.commit_or_roll_back(Some(created), None))
            })
        })
        .await
    }

    /// Returns a stored file, possibly from the cache; `None` if the uid is unknown or not stored.
    pub async fn stored_file(&self, uid: Uid) -> Result<Option<Arc<StoredFile>>, MetaError> {
        Ok(self.stored_files(&[uid]).await?.pop())
    }

    /// Reads a stored file from the database, bypassing the cache.
    pub async fn stored_file_uncached(&self, uid: Uid) -> Result<Option<Arc<StoredFile>>, MetaError> {
        let row = file::Entity::find_by_id(uid.get())
            .find_also_related(blob::Entity)
            .filter(file::Column::State.eq(file::State::Stored))
            .one(&self.reader)
            .await?;
        Ok(row.map(|(file, blob)| file_from_row(file, blob)).transpose()?.map(Arc::new))
    }

    /// Evicts a file from this node's cache.
    pub fn evict_file(&self, uid: Uid) {
        self.file_cache.evict_file(uid);
    }

    /// Reads the state of a file, bypassing the cache; `None` if the uid is unknown.
    pub async fn file_state(&self, uid: Uid) -> Result<Option<FileState>, MetaError> {
        let file = file::Entity::find_by_id(uid.get()).one(&self.reader).await?;
        Ok(file.map(|file| file.state))
    }

    /// Returns the stored files among `uids`, in the same order; from the cache where possible.
    pub async fn stored_files(&self, uids: &[Uid]) -> Result<Vec<Arc<StoredFile>>, MetaError> {
        let mut found: HashMap<Uid, _> =
            uids.iter().filter_map(|uid| Some((*uid, self.file_cache.get(*uid)?))).collect();
        let missing: Vec<_> =
            uids.iter().filter(|uid| !found.contains_key(*uid)).map(|uid| uid.get()).collect();
        if !missing.is_empty() {
            let generation = self.file_cache.generation();
            let rows = file::Entity::find()
                .find_also_related(blob::Entity)
                .filter(file::Column::Uid.is_in(missing))
                .filter(file::Column::State.eq(file::State::Stored))
                .all(&self.reader)
                .await?;
            for (file, blob) in rows {
                let stored = Arc::new(file_from_row(file, blob)?);
                // Don't cache unverified files: a merge moves them without an invalidation.
                if stored.content.digests.is_some() {
                    self.file_cache.insert(stored.clone(), generation);
                }
                found.insert(stored.uid, stored);
            }
        }
        Ok(uids.iter().filter_map(|uid| found.get(uid).cloned()).collect())
    }
}

/// Inserts files; returns for each whether it is stored, or `None` if the quota is exceeded.
async fn create(
    transaction: &DatabaseTransaction,
    uploads: &[NewUpload],
    expires_at: i64,
    quotas: &Quotas,
) -> Result<TxEnd<Option<Vec<bool>>>, DbErr> {
    let (mut rows, mut stored, mut charge, mut records) = (Vec::new(), Vec::new(), 0_u64, 0_i64);
    for NewUpload { file, known_content: known } in uploads {
        let known = match known {
            Some(known) if blobs::add_references(transaction, known.blob_id, 1, None).await? => Some(known),
            _ => None,
        };
        let size = known.map_or(file.announced.size, |known| Some(known.size));
        charge = charge.saturating_add(size.unwrap_or(0));
        records = records.saturating_add(row_charge(file));
        stored.push(known.is_some());
        rows.push(match known {
            Some(known) => stored_row(file, known),
            None => pending_row(file, expires_at),
        });
    }
    file::Entity::insert_many(rows).exec_without_returning(transaction).await?;
    let tenant = uploads.first().map_or("", |upload| upload.file.tenant.as_str());
    let charge = i64::try_from(charge).unwrap_or(i64::MAX).saturating_add(records);
    Ok(quotas.charge(transaction, tenant, charge).await?.commit_or_roll_back(Some(stored), None))
}

/// Expected digests, as announced in the row of a file.
pub(crate) fn expected_digests(file: &file::Model) -> ExpectedDigests {
    ExpectedDigests {
        md5: decode_digest(file.claimed_md5.as_ref()),
        sha256: decode_digest(file.claimed_sha256.as_ref()),
        blake3: decode_digest(file.claimed_blake3.as_ref()),
    }
}

/// Part layout from recorded sizes; `None` unless both are known.
pub(crate) fn part_layout(size: Option<i64>, part_size: Option<i64>) -> Option<PartLayout> {
    let size = size.and_then(|size| u64::try_from(size).ok())?;
    Some(PartLayout { size, part_size: self::decode_part_size(part_size)? })
}

/// Part size from its column; `None` if unset or invalid.
pub(crate) fn decode_part_size(recorded: Option<i64>) -> Option<u64> {
    recorded.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0)
}

/// Bytes that a tenant is charged for the row of a file itself.
pub(crate) fn row_charge(file: &NewFile) -> i64 {
    record_bytes(&file.name, listing::encode_metadata(&file.announced.metadata).as_deref())
}

/// Creation time for a file's row: now, but close to the time in the uid, even if this machine's
/// clock is or was wrong. Listings rely on that.
fn created_at(uid: Uid) -> i64 {
    let issued = uid.timestamp_ms().cast_signed();
    now_ms().clamp(issued.saturating_sub(CLOCKS), issued.saturating_add(CLOCKS))
}

/// Row of a file without content.
pub(crate) fn pending_row(file: &NewFile, expires_at: i64) -> file::ActiveModel {
    file::ActiveModel {
        uid: Set(file.uid.get()),
        tenant: Set(file.tenant.to_string()),
        name: Set(file.name.clone()),
        state: Set(file::State::Pending),
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
        listed: Set(1),
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
    }
}

/// Row of a file that shares stored content.
pub(crate) fn stored_row(file: &NewFile, content: &KnownContent) -> file::ActiveModel {
    let now = now_ms();
    file::ActiveModel {
        charged: Set(content.size.cast_signed()),
        state: Set(file::State::Stored),
        blob_id: Set(Some(content.blob_id)),
        content_type: Set(content.content_type.clone()),
        stored_at: Set(Some(now)),
        ..pending_row(file, now)
    }
}

fn file_from_row(file: file::Model, blob: Option<blob::Model>) -> Result<StoredFile, DbErr> {
    let damaged = || DbErr::Custom(format!("file {} is stored but its row is incomplete", file.uid));
    let blob = blob.ok_or_else(damaged)?;
    Ok(StoredFile {
        uid: Uid::from_db(file.uid),
        tenant: Tenant::from_db(&file.tenant),
        content: content_from_row(blob)?,
        stored_at: file.stored_at.ok_or_else(damaged)?,
        links_valid_from: file.links_from,
        name: file.name,
        content_type: file.content_type,
    })
}

pub(crate) fn content_from_row(blob: blob::Model) -> Result<StoredContent, DbErr> {
    Ok(StoredContent {
        blob_id: blob.id,
        size: blobs::decode_size(blob.id, blob.size)?,
        layout: match blob.layout {
            blob::BlobLayout::Whole => ContentLayout::Whole(decode_key(&blob.object_key)?),
            blob::BlobLayout::Parts => ContentLayout::Parts,
        },
        digests: blobs::computed_digests(&blob)?,
        is_utf8: content_type::is_utf8(blob.sniffed.as_deref()),
        store: blob.backend,
        claimed_md5: blob.claimed_md5.and_then(|md5| md5.try_into().ok()),
    })
}

/// Filter: files that refer to this blob; with `None`, files without a blob.
pub(crate) fn has_blob(blob_id: Option<i64>) -> Expr {
    blob_id.map_or_else(|| file::Column::BlobId.is_null(), |id| file::Column::BlobId.eq(id))
}

/// Parses a key from the database.
pub(crate) fn decode_key(key: &str) -> Result<Key, DbErr> {
    Key::parse(key).map_err(|error| DbErr::Custom(format!("{error}: {key:?}")))
}
