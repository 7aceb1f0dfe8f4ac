//! Verification of blobs that lie in one object, and the handling of blobs that turn out to be
//! duplicate, wrong or lost.
//!
//! A merge or verification ends by recording the digests in the blob's row. The unique index on the
//! BLAKE3 rejects the digests if another blob of the tenant has the same content. The files of one
//! of the two blobs then move to the other.

use osproxy_storage::{Digests, Key};
use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, sea_query::Expr,
};

use crate::MetaError;
use crate::{
    BlobDb, EventKind, ExpectedDigests, Invalidation, MergeOutcome, TaskKind,
    blobs::{self, encode_digest, merges::map_unique_conflict},
    boxed_future,
    db::{
        entities::{blob, file},
        write_batcher::TxEnd,
    },
    events::record::{EventContent, EventRecorder, FileEvent},
    files::rows::decode_key,
};

/// Maximum number of files to read at once. Many files may share a blob.
const FILES_PAGE: u64 = 200;

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
    /// Size of the slots of its preallocated file, in bytes, if it had one.
    pub slot_size: Option<u64>,
    /// The digests expected by the client.
    pub expected: ExpectedDigests,
}

impl BlobDb {
    /// Records the digests computed from a blob in one object. Returns `Conflict` if another blob
    /// has the same content.
    #[boxed_future]
    pub async fn finish_verification(
        &self,
        blob_id: i64,
        digests: Digests,
    ) -> Result<MergeOutcome, MetaError> {
        let outcome = self
            .db
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
        map_unique_conflict(outcome)
    }

    /// Returns the blob if it lies in one object and is not verified yet.
    #[boxed_future]
    pub async fn unverified(&self, blob_id: i64) -> Result<Option<UnverifiedBlob>, MetaError> {
        let blob = blob::Entity::find_by_id(blob_id)
            .filter(blob::Column::State.eq(blob::State::Stored))
            .filter(blob::Column::Layout.eq(blob::BlobLayout::Whole))
            .filter(blob::Column::Blake3.is_null());
        let Some(blob) = blob.one(&self.db.reader).await? else {
            return Ok(None);
        };
        Ok(Some(UnverifiedBlob {
            tenant: Tenant::from_db(&blob.tenant),
            key: decode_key(&blob.object_key)?,
            size: blobs::decode_size(blob.id, blob.size)?,
            slot_size: blobs::slot_size(&blob),
            expected: blobs::expected_digests(&blob),
            store: blob.backend,
        }))
    }

    /// Moves all files of an unverified blob to the blob `replacement`, which has the same content
    /// and these digests. Marks the unverified blob for deletion, and enqueues the task that
    /// deletes it. `task_id` is an unused id for that task. Returns `Conflict` if `replacement` is
    /// not stored.
    #[boxed_future]
    pub async fn share_content(
        &self,
        blob_id: i64,
        replacement: i64,
        digests: Digests,
        task_id: Uid,
    ) -> Result<MergeOutcome, MetaError> {
        self.move_files_to_blob(blob_id, BlobFilter::Unverified, replacement, Some(digests), task_id).await
    }

    /// Moves all files of the blob `lost`, whose object was lost, to the blob `replacement`, which
    /// has the same content and is intact. Marks the lost blob for deletion, and enqueues the task
    /// that deletes it. `task_id` is an unused id for that task. Returns `Conflict` if
    /// `replacement` is not stored.
    #[boxed_future]
    pub async fn replace_lost(
        &self,
        lost: i64,
        replacement: i64,
        task_id: Uid,
    ) -> Result<MergeOutcome, MetaError> {
        let outcome = self.move_files_to_blob(lost, BlobFilter::Any, replacement, None, task_id).await;
        self.db.invalidate_everywhere(Invalidation::Blob(lost));
        outcome
    }

    async fn move_files_to_blob(
        &self,
        blob_id: i64,
        filter: BlobFilter,
        replacement: i64,
        digests: Option<Digests>,
        task_id: Uid,
    ) -> Result<MergeOutcome, MetaError> {
        let delete_task = self.db.task_seed(task_id);
        self.db
            .write_or_rollback(move |transaction| {
                Box::pin(async move {
                    let marked = mark_deleting(transaction, blob_id, filter).await?;
                    let Some((refs, store)) = marked else {
                        return Ok(TxEnd::Rollback(MergeOutcome::Superseded));
                    };
                    if !blobs::add_references(transaction, replacement, refs, digests.as_ref()).await? {
                        return Ok(TxEnd::Rollback(MergeOutcome::Conflict));
                    }
                    file::Entity::update_many()
                        .col_expr(file::Column::BlobId, Expr::value(replacement))
                        .filter(file::Column::BlobId.eq(blob_id))
                        .exec(transaction)
                        .await?;
                    delete_task.enqueue(transaction, TaskKind::DeleteBlob, blob_id, store).await?;
                    Ok(TxEnd::Commit(MergeOutcome::Stored))
                })
            })
            .await
    }

    /// Rejects an unverified blob whose content does not match the expected digests: its files
    /// become corrupt and cannot be read any more. Marks the blob for deletion, and enqueues the
    /// task that deletes it. `task_id` is an unused id for that task.
    ///
    /// `reason` says what does not match.
    #[boxed_future]
    pub async fn reject_content(
        &self,
        blob_id: i64,
        reason: String,
        task_id: Uid,
    ) -> Result<MergeOutcome, MetaError> {
        let (quotas, delete_task) = (self.db.quotas.clone(), self.db.task_seed(task_id));
        let recorder = self.db.event_recorder();
        self.db
            .write_or_rollback(move |transaction| {
                let (quotas, recorder, reason) = (quotas.clone(), recorder.clone(), reason.clone());
                Box::pin(async move {
                    let Some((_, store)) =
                        mark_deleting(transaction, blob_id, BlobFilter::Unverified).await?
                    else {
                        return Ok(TxEnd::Rollback(MergeOutcome::Superseded));
                    };
                    let charged = record_corrupt(transaction, blob_id, &reason, &recorder).await?;
                    file::Entity::update_many()
                        .col_expr(file::Column::State, Expr::value(file::State::Corrupt))
                        .col_expr(file::Column::Charged, Expr::value(0))
                        .col_expr(file::Column::BlobId, Expr::value(None::<i64>))
                        .col_expr(file::Column::ExpiresAt, Expr::value(delete_task.now))
                        .filter(file::Column::BlobId.eq(blob_id))
                        .exec(transaction)
                        .await?;
                    delete_task.enqueue(transaction, TaskKind::DeleteBlob, blob_id, store).await?;
                    if let Some((tenant, sum)) = charged {
                        quotas.charge(transaction, &tenant, -sum).await?;
                    }
                    Ok(TxEnd::Commit(MergeOutcome::Stored))
                })
            })
            .await
    }
}

/// Records that the files of a blob are corrupt, and locks their rows. Returns the tenant, to which
/// all of them belong, and the sum of their charges; `None` if the blob has no file.
async fn record_corrupt(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    reason: &str,
    recorder: &EventRecorder,
) -> Result<Option<(String, i64)>, DbErr> {
    let (mut charged, mut after) = (None, 0);
    loop {
        let page = file::Entity::find()
            .filter(file::Column::BlobId.eq(blob_id))
            .filter(file::Column::Uid.gt(after))
            .order_by_asc(file::Column::Uid)
            .limit(FILES_PAGE)
            .lock_exclusive();
        let files = page.all(transaction).await?;
        let Some(last) = files.last() else {
            return Ok(charged);
        };
        after = last.uid;
        let (tenant, sum) = charged.unwrap_or_else(|| (last.tenant.clone(), 0));
        charged = Some((tenant, sum + files.iter().map(|file| file.charged).sum::<i64>()));
        let corrupt = files.iter().map(|file| {
            let content = EventContent { size: u64::try_from(file.charged).ok(), ..EventContent::default() };
            let corrupt = FileEvent::new(EventKind::FileCorrupt, file, content);
            FileEvent { reason: Some(reason), ..corrupt }
        });
        recorder.record_files(transaction, corrupt).await?;
    }
}

/// Which stored blobs [`mark_deleting`] marks for deletion.
#[derive(Clone, Copy)]
enum BlobFilter {
    /// Only a blob that is not verified yet.
    Unverified,
    Any,
}

/// Marks a stored blob that passes `filter` for deletion, and sets its reference count to 0.
/// Returns the previous count and the blob's store; `None` if there is no such blob.
async fn mark_deleting(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    filter: BlobFilter,
) -> Result<Option<(i32, String)>, DbErr> {
    let mut marked = blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
        // Deduplication must no longer find the blob by its digests.
        .col_expr(blob::Column::Md5, Expr::value(None::<Vec<u8>>))
        .col_expr(blob::Column::Blake3, Expr::value(None::<Vec<u8>>))
        .col_expr(blob::Column::Sha256, Expr::value(None::<Vec<u8>>))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Stored));
    if matches!(filter, BlobFilter::Unverified) {
        marked = marked.filter(blob::Column::Blake3.is_null());
    }
    if marked.exec(transaction).await?.rows_affected == 0 {
        return Ok(None);
    }
    // The UPDATE above locked the row: no other transaction can add a reference now.
    let row = blob::Entity::find_by_id(blob_id).one(transaction).await?;
    let changed = blob::ActiveModel { id: Set(blob_id), refs: Set(0), ..Default::default() };
    blob::Entity::update(changed).exec(transaction).await?;
    Ok(row.map(|blob| (blob.refs, blob.backend)))
}
