//! Merges of parts into one object, and verification of blobs in one object.
//!
//! Both end with the digests of the blob in its row. The unique index on the BLAKE3 makes two blobs
//! with the same content collide there; the files of one of them then move to the other.

use osproxy_storage::{Digests, Key};
use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect,
    sea_query::Expr,
};

use crate::MetaError;
use crate::{
    ExpectedDigests, Invalidation, Meta, NodeStores, TaskKind,
    blobs::{self, encode_digest},
    db::{
        entities::{blob, file},
        write_batcher::TxEnd,
    },
    files::rows::{decode_key, decode_part_size},
};

/// A blob stored in parts, and the object that will replace them.
#[derive(Clone, Debug)]
pub struct MergeIntent {
    /// Id of the write intent: the row that names the object to be written.
    pub intent_id: i64,
    /// Whether some of the parts are in the store's multipart upload, or in the object that it
    /// became. [`Meta::finish_merge`] then makes the intent name that object, so that the sweep
    /// removes it.
    pub has_multipart: bool,
    /// The store of the parts; the object is written there too.
    pub store: String,
    /// The owner of the files.
    pub tenant: Tenant,
    /// Key of the object to be written. No other write uses it.
    pub key: Key,
    /// Size of all parts together, in bytes.
    pub size: u64,
    /// The digests expected by the client.
    pub expected: ExpectedDigests,
}

/// A blob stored in one object.
#[derive(Clone, Debug)]
pub struct WholeBlob {
    /// The store of the object, and of any parts not removed yet.
    pub store: String,
    /// Key of the object.
    pub key: Key,
    /// Size in bytes.
    pub size: u64,
}

/// A blob in one object whose bytes are not verified yet.
#[derive(Clone, Debug)]
pub struct UnverifiedBlob {
    /// The owner of the files.
    pub tenant: Tenant,
    /// The store of the object.
    pub store: String,
    /// Key of the object.
    pub key: Key,
    /// Size in bytes.
    pub size: u64,
    /// Size of each part except the last, in bytes, if the layout was known before the parts
    /// arrived.
    pub part_size: Option<u64>,
    /// The digests expected by the client.
    pub expected: ExpectedDigests,
}

/// What [`Meta::begin_merge`] found.
#[derive(Clone, Debug)]
pub enum BeginMergeOutcome {
    /// The blob has parts to merge.
    Ready(MergeIntent),
    /// The blob is merged already. Objects of its parts may still exist.
    AlreadyMerged(WholeBlob),
    /// The blob does not exist, or is being deleted.
    Gone,
}

/// Outcome of a merge or verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeOutcome {
    /// The blob has the content now, or its files share another blob.
    Stored,
    /// A blob with the same content appeared or disappeared meanwhile; look it up again.
    Conflict,
    /// Another task finished first, or the blob is gone.
    Superseded,
    /// The sweep removed the write intent.
    Swept,
}

impl Meta {
    /// Begins to merge the parts of a blob: records a write intent for the object. The first merge
    /// uses the key derived from the blob's own id, every later one the key derived from
    /// `fallback_id`, so that no key is written twice.
    pub async fn begin_merge(&self, blob_id: i64, fallback_id: i64) -> Result<BeginMergeOutcome, MetaError> {
        let here = self.node_stores.clone();
        self.write(move |transaction| {
            let here = here.clone();
            Box::pin(async move { begin(transaction, blob_id, fallback_id, &here).await })
        })
        .await
    }

    /// Moves the blob to the object of `intent`, which must be published and durable. Returns
    /// `Conflict` if another blob has the same content.
    pub async fn finish_merge(
        &self,
        blob_id: i64,
        intent: &MergeIntent,
        digests: Digests,
    ) -> Result<MergeOutcome, MetaError> {
        let (intent_id, key) = (intent.intent_id, intent.key.to_string());
        let finished = self
            .write_or_rollback(move |transaction| {
                let key = key.clone();
                Box::pin(async move {
                    if !consume_intent(transaction, intent_id, blob_id).await? {
                        return Ok(TxEnd::Rollback(MergeOutcome::Swept));
                    }
                    let merged = blob::Entity::update_many()
                        .col_expr(blob::Column::Layout, Expr::value(blob::BlobLayout::Whole))
                        .col_expr(blob::Column::ObjectKey, Expr::value(key))
                        .col_expr(blob::Column::UploadId, Expr::value(None::<String>))
                        .col_expr(blob::Column::Md5, Expr::value(encode_digest(digests.md5)))
                        .col_expr(blob::Column::Sha256, Expr::value(encode_digest(digests.sha256)))
                        .col_expr(blob::Column::Blake3, Expr::value(digests.blake3.to_vec()))
                        .filter(blob::Column::Id.eq(blob_id))
                        .filter(blob::Column::State.eq(blob::State::Stored))
                        .filter(blob::Column::Layout.eq(blob::BlobLayout::Parts))
                        .exec(transaction)
                        .await?;
                    Ok(match merged.rows_affected {
                        0 => TxEnd::Rollback(MergeOutcome::Superseded),
                        _ => TxEnd::Commit(MergeOutcome::Stored),
                    })
                })
            })
            .await;
        map_unique_conflict(finished)
    }

    /// Records the digests computed from a blob in one object. Returns `Conflict` if another blob
    /// has the same content.
    pub async fn finish_verification(
        &self,
        blob_id: i64,
        digests: Digests,
    ) -> Result<MergeOutcome, MetaError> {
        let finished = self
            .write(move |transaction| {
                Box::pin(async move {
                    let verified = blob::Entity::update_many()
                        .col_expr(blob::Column::UploadId, Expr::value(None::<String>))
                        .col_expr(blob::Column::Md5, Expr::value(encode_digest(digests.md5)))
                        .col_expr(blob::Column::Sha256, Expr::value(encode_digest(digests.sha256)))
                        .col_expr(blob::Column::Blake3, Expr::value(digests.blake3.to_vec()))
                        .filter(blob::Column::Id.eq(blob_id))
                        .filter(blob::Column::State.eq(blob::State::Stored))
                        .filter(blob::Column::Layout.eq(blob::BlobLayout::Whole))
                        .filter(blob::Column::Blake3.is_null())
                        .exec(transaction)
                        .await?;
                    Ok(if verified.rows_affected == 1 {
                        MergeOutcome::Stored
                    } else {
                        MergeOutcome::Superseded
                    })
                })
            })
            .await;
        map_unique_conflict(finished)
    }

    /// Returns the blob if it lies in one object and is not verified yet.
    pub async fn unverified_blob(&self, blob_id: i64) -> Result<Option<UnverifiedBlob>, MetaError> {
        let blob = blob::Entity::find_by_id(blob_id)
            .filter(blob::Column::State.eq(blob::State::Stored))
            .filter(blob::Column::Layout.eq(blob::BlobLayout::Whole))
            .filter(blob::Column::Blake3.is_null());
        let Some(blob) = blob.one(&self.reader).await? else {
            return Ok(None);
        };
        Ok(Some(UnverifiedBlob {
            tenant: Tenant::from_db(&blob.tenant),
            key: decode_key(&blob.object_key)?,
            size: blobs::decode_size(blob.id, blob.size)?,
            part_size: decode_part_size(blob.part_size),
            expected: blobs::expected_digests(&blob),
            store: blob.backend,
        }))
    }

    /// Moves all files of an unverified blob to the blob `same`, whose content is equal and has
    /// these digests. Marks the first blob for deletion and enqueues a task with the unused `task_id`
    /// that deletes it.
    pub async fn share_content(
        &self,
        blob_id: i64,
        same: i64,
        digests: Digests,
        task_id: Uid,
    ) -> Result<MergeOutcome, MetaError> {
        self.move_files_to_blob(blob_id, BlobFilter::Unverified, same, Some(digests), task_id).await
    }

    /// Moves all files of a blob whose object was lost to the blob `by`, which has the same content
    /// and is intact. Marks the lost blob for deletion and enqueues a task with the unused `task_id`
    /// that deletes it.
    pub async fn replace_lost_blob(
        &self,
        lost: i64,
        by: i64,
        task_id: Uid,
    ) -> Result<MergeOutcome, MetaError> {
        let moved = self.move_files_to_blob(lost, BlobFilter::Any, by, None, task_id).await;
        self.invalidate_everywhere(Invalidation::Blob(lost));
        moved
    }

    async fn move_files_to_blob(
        &self,
        blob_id: i64,
        which: BlobFilter,
        same: i64,
        digests: Option<Digests>,
        task_id: Uid,
    ) -> Result<MergeOutcome, MetaError> {
        let removal = self.task_seed(task_id);
        self.write_or_rollback(move |transaction| {
            Box::pin(async move {
                let condemned = mark_deleting(transaction, blob_id, which).await?;
                let Some((refs, store)) = condemned else {
                    return Ok(TxEnd::Rollback(MergeOutcome::Superseded));
                };
                if !blobs::add_references(transaction, same, refs, digests.as_ref()).await? {
                    return Ok(TxEnd::Rollback(MergeOutcome::Conflict));
                }
                file::Entity::update_many()
                    .col_expr(file::Column::BlobId, Expr::value(same))
                    .filter(file::Column::BlobId.eq(blob_id))
                    .exec(transaction)
                    .await?;
                removal.enqueue(transaction, TaskKind::DeleteBlob, blob_id, store).await?;
                Ok(TxEnd::Commit(MergeOutcome::Stored))
            })
        })
        .await
    }

    /// Rejects an unverified blob whose content does not match the expected digests: its files
    /// become corrupt and cannot be read any more. Marks the blob for deletion and enqueues a task
    /// with the unused `task_id` that deletes it.
    pub async fn reject_content(&self, blob_id: i64, task_id: Uid) -> Result<MergeOutcome, MetaError> {
        let (quotas, removal) = (self.quotas.clone(), self.task_seed(task_id));
        self.write_or_rollback(move |transaction| {
            let quotas = quotas.clone();
            Box::pin(async move {
                let Some((_, store)) = mark_deleting(transaction, blob_id, BlobFilter::Unverified).await?
                else {
                    return Ok(TxEnd::Rollback(MergeOutcome::Superseded));
                };
                let charged = file::Entity::find()
                    .select_only()
                    .columns([file::Column::Tenant, file::Column::Charged])
                    .filter(file::Column::BlobId.eq(blob_id));
                let charged: Vec<(String, i64)> = charged.into_tuple().all(transaction).await?;
                file::Entity::update_many()
                    .col_expr(file::Column::State, Expr::value(file::State::Corrupt))
                    .col_expr(file::Column::Charged, Expr::value(0))
                    .col_expr(file::Column::BlobId, Expr::value(None::<i64>))
                    .col_expr(file::Column::ExpiresAt, Expr::value(removal.now))
                    .filter(file::Column::BlobId.eq(blob_id))
                    .exec(transaction)
                    .await?;
                removal.enqueue(transaction, TaskKind::DeleteBlob, blob_id, store).await?;
                // All files of a blob belong to one tenant.
                let sum: i64 = charged.iter().map(|(_, bytes)| bytes).sum();
                let tenant = charged.first().map_or("", |(tenant, _)| tenant);
                quotas.charge(transaction, tenant, -sum).await?;
                Ok(TxEnd::Commit(MergeOutcome::Stored))
            })
        })
        .await
    }
}

/// Maps a conflict on the unique BLAKE3 index to `Conflict`: a blob with the same content appeared
/// meanwhile.
fn map_unique_conflict(outcome: Result<MergeOutcome, MetaError>) -> Result<MergeOutcome, MetaError> {
    match outcome {
        Err(MetaError::Conflict(_)) => Ok(MergeOutcome::Conflict),
        outcome => outcome,
    }
}

async fn begin(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    fallback_id: i64,
    node_stores: &NodeStores,
) -> Result<BeginMergeOutcome, DbErr> {
    let Some(blob) = blob::Entity::find_by_id(blob_id).one(transaction).await? else {
        return Ok(BeginMergeOutcome::Gone);
    };
    match (blob.state, blob.layout) {
        (blob::State::Stored, blob::BlobLayout::Parts) => {}
        (blob::State::Stored, blob::BlobLayout::Whole) => {
            let size = blobs::decode_size(blob.id, blob.size)?;
            return Ok(BeginMergeOutcome::AlreadyMerged(WholeBlob {
                key: decode_key(&blob.object_key)?,
                size,
                store: blob.backend,
            }));
        }
        _ => return Ok(BeginMergeOutcome::Gone),
    }
    let name = file::Entity::find().filter(file::Column::BlobId.eq(blob_id)).one(transaction).await?;
    let name = name.map(|file| file.name).unwrap_or_default();
    let key = |id| node_stores.whole_key(&blob.backend, &name, id);
    // The first merge that writes the blob's own key into the row may use it.
    let own = key(blob_id);
    let named = blob::Entity::update_many()
        .col_expr(blob::Column::ObjectKey, Expr::value(own.as_str()))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::ObjectKey.eq(""))
        .exec(transaction)
        .await?;
    let key = if named.rows_affected == 1 { own } else { key(fallback_id) };
    let row = blobs::intent_row(fallback_id, &blob.tenant, &blob.backend, key.to_string(), node_stores);
    blob::Entity::insert(row).exec_without_returning(transaction).await?;
    Ok(BeginMergeOutcome::Ready(MergeIntent {
        intent_id: fallback_id,
        tenant: Tenant::from_db(&blob.tenant),
        key: decode_key(key.as_str())?,
        size: blobs::decode_size(blob.id, blob.size)?,
        expected: blobs::expected_digests(&blob),
        has_multipart: blob.upload_id.is_some(),
        store: blob.backend,
    }))
}

/// Removes a write intent whose object the caller is about to give to the blob. If the blob has, or
/// may have, a multipart upload, the intent row stays and takes over the key of that upload's
/// object, marked for deletion. Returns `false` if the sweep was faster.
async fn consume_intent(
    transaction: &DatabaseTransaction,
    intent_id: i64,
    blob_id: i64,
) -> Result<bool, DbErr> {
    let blob = blob::Entity::find_by_id(blob_id).one(transaction).await?;
    if let Some(blob) = blob.filter(|blob| blob.upload_id.is_some()) {
        let kept = blob::Entity::update_many()
            .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
            .col_expr(blob::Column::ObjectKey, Expr::value(blob.object_key))
            .col_expr(blob::Column::PartSize, Expr::value(blob.part_size))
            .filter(blob::Column::Id.eq(intent_id))
            .filter(blob::Column::State.eq(blob::State::Writing))
            .exec(transaction)
            .await?;
        return Ok(kept.rows_affected == 1);
    }
    let taken = blob::Entity::delete_many()
        .filter(blob::Column::Id.eq(intent_id))
        .filter(blob::Column::State.eq(blob::State::Writing))
        .exec(transaction)
        .await?;
    Ok(taken.rows_affected == 1)
}

/// Which stored blobs may be marked for deletion while files refer to them.
#[derive(Clone, Copy)]
enum BlobFilter {
    /// Only a blob that is not verified yet.
    Unverified,
    Any,
}

/// Marks a stored blob for deletion. Returns the number of files that referred to it and its store;
/// `None` if it is not stored any more.
async fn mark_deleting(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    which: BlobFilter,
) -> Result<Option<(i32, String)>, DbErr> {
    let mut condemned = blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
        // Deduplication must not find it by its digests any more.
        .col_expr(blob::Column::Md5, Expr::value(None::<Vec<u8>>))
        .col_expr(blob::Column::Blake3, Expr::value(None::<Vec<u8>>))
        .col_expr(blob::Column::Sha256, Expr::value(None::<Vec<u8>>))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Stored));
    if matches!(which, BlobFilter::Unverified) {
        condemned = condemned.filter(blob::Column::Blake3.is_null());
    }
    if condemned.exec(transaction).await?.rows_affected == 0 {
        return Ok(None);
    }
    // The UPDATE above locked the row: no other transaction can add a reference now.
    let row = blob::Entity::find_by_id(blob_id).one(transaction).await?;
    let changed = blob::ActiveModel { id: Set(blob_id), refs: Set(0), ..Default::default() };
    blob::Entity::update(changed).exec(transaction).await?;
    Ok(row.map(|blob| (blob.refs, blob.backend)))
}
