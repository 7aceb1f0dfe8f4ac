//! Merges of parts into one object, and verification of blobs in one object.
//!
//! Both end with the digests of the blob in its row. The unique index on the BLAKE3 makes two blobs
//! with the same content collide there; the files of one of them then move to the other.

use osproxy_storage::{Digests, Key};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect, SqlErr,
    sea_query::Expr,
};

use super::{
    Change, Claims, Here, Meta, TaskForBlob,
    blobs::{self, to_record},
    entities::{blob, file},
    files::{part_size, recorded_key},
    tasks,
    write_queue::Verdict,
};
use crate::tenant::Tenant;

/// A blob stored in parts, and the object that will replace them.
#[derive(Clone, Debug)]
pub struct MergeIntent {
    /// Id of the write intent: the row that names the object to be written.
    pub intent_id: i64,
    /// Whether the store holds some of the parts in its own multipart upload, or in the object it
    /// made of one. [`Meta::finish_merge`] then makes the intent name that object, so that the
    /// sweep removes it.
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
    pub expected: Claims,
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
    /// Bytes of each part but the last, if the layout was known before the parts arrived.
    pub part_size: Option<u64>,
    /// The digests expected by the client.
    pub expected: Claims,
}

/// What [`Meta::begin_merge`] found.
#[derive(Clone, Debug)]
pub enum Merge {
    /// The blob has parts to merge.
    Ready(MergeIntent),
    /// The blob is merged already. Objects of its parts may still exist.
    AlreadyMerged(WholeBlob),
    /// The blob does not exist, or is being deleted.
    Gone,
}

/// Outcome of a merge or verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
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
    /// writes under the key made of the blob's own id, every later one under the key made of
    /// `spare`, so that no key is written twice.
    pub async fn begin_merge(&self, blob_id: i64, fallback_id: i64) -> Result<Merge, DbErr> {
        let here = self.node_stores.clone();
        self.write(move |transaction| {
            let here = here.clone();
            Box::pin(async move { begin(transaction, blob_id, fallback_id, &here).await })
        })
        .await
    }

    /// Moves the blob to the object of `intent`, which must be published and durable. Returns
    /// `Changed` if another blob has the same content.
    pub async fn finish_merge(
        &self,
        blob_id: i64,
        intent: &MergeIntent,
        digests: Digests,
    ) -> Result<Merged, DbErr> {
        let (intent_id, key) = (intent.intent_id, intent.key.to_string());
        let finished = self
            .write_or_undo(move |transaction| {
                let key = key.clone();
                Box::pin(async move {
                    if !take_intent(transaction, intent_id, blob_id).await? {
                        return Ok(Verdict::Rollback(Merged::Swept));
                    }
                    let merged = blob::Entity::update_many()
                        .col_expr(blob::Column::Layout, Expr::value(blob::Layout::Whole))
                        .col_expr(blob::Column::ObjectKey, Expr::value(key))
                        .col_expr(blob::Column::UploadId, Expr::value(None::<String>))
                        .col_expr(blob::Column::Md5, Expr::value(to_record(digests.md5)))
                        .col_expr(blob::Column::Sha256, Expr::value(to_record(digests.sha256)))
                        .col_expr(blob::Column::Blake3, Expr::value(digests.blake3.to_vec()))
                        .filter(blob::Column::Id.eq(blob_id))
                        .filter(blob::Column::State.eq(blob::State::Stored))
                        .filter(blob::Column::Layout.eq(blob::Layout::Parts))
                        .exec(transaction)
                        .await?;
                    Ok(match merged.rows_affected {
                        0 => Verdict::Rollback(Merged::Superseded),
                        _ => Verdict::Commit(Merged::Stored),
                    })
                })
            })
            .await;
        or_changed(finished)
    }

    /// Records the digests computed from a blob in one object. Returns `Changed` if another blob
    /// has the same content.
    pub async fn finish_verification(&self, blob_id: i64, digests: Digests) -> Result<Merged, DbErr> {
        let finished = self
            .write(move |transaction| {
                Box::pin(async move {
                    let verified = blob::Entity::update_many()
                        .col_expr(blob::Column::UploadId, Expr::value(None::<String>))
                        .col_expr(blob::Column::Md5, Expr::value(to_record(digests.md5)))
                        .col_expr(blob::Column::Sha256, Expr::value(to_record(digests.sha256)))
                        .col_expr(blob::Column::Blake3, Expr::value(digests.blake3.to_vec()))
                        .filter(blob::Column::Id.eq(blob_id))
                        .filter(blob::Column::State.eq(blob::State::Stored))
                        .filter(blob::Column::Layout.eq(blob::Layout::Whole))
                        .filter(blob::Column::Blake3.is_null())
                        .exec(transaction)
                        .await?;
                    Ok(if verified.rows_affected == 1 { Merged::Stored } else { Merged::Superseded })
                })
            })
            .await;
        or_changed(finished)
    }

    /// Returns the blob if it lies in one object and is not verified yet.
    pub async fn unverified(&self, blob_id: i64) -> Result<Option<UnverifiedBlob>, DbErr> {
        let blob = blob::Entity::find_by_id(blob_id)
            .filter(blob::Column::State.eq(blob::State::Stored))
            .filter(blob::Column::Layout.eq(blob::Layout::Whole))
            .filter(blob::Column::Blake3.is_null());
        let Some(blob) = blob.one(&self.reader).await? else {
            return Ok(None);
        };
        Ok(Some(UnverifiedBlob {
            tenant: Tenant::from_recorded(&blob.tenant),
            key: recorded_key(&blob.object_key)?,
            size: blobs::recorded_size(blob.id, blob.size)?,
            part_size: part_size(blob.part_size),
            expected: blobs::claims(&blob),
            store: blob.backend,
        }))
    }

    /// Moves all files of an unverified blob to the blob `same`, whose content is equal and has
    /// these digests. Marks the first blob for deletion and enqueues `removal` for it.
    pub async fn share_content(
        &self,
        blob_id: i64,
        same: i64,
        digests: Digests,
        removal: TaskForBlob,
    ) -> Result<Merged, DbErr> {
        self.move_files(blob_id, Which::Unverified, (same, Some(digests)), removal).await
    }

    /// Moves all files of a blob whose object was lost to the blob `by`, which has the same content
    /// and is intact. Marks the lost blob for deletion and enqueues `removal` for it.
    pub async fn replace_lost(&self, lost: i64, by: i64, removal: TaskForBlob) -> Result<Merged, DbErr> {
        let moved = self.move_files(lost, Which::Any, (by, None), removal).await;
        self.changed(Change::Blob(lost));
        moved
    }

    async fn move_files(
        &self,
        blob_id: i64,
        which: Which,
        (same, digests): (i64, Option<Digests>),
        removal: TaskForBlob,
    ) -> Result<Merged, DbErr> {
        let now = self.clock.now_ms();
        self.write_or_undo(move |transaction| {
            let removal = removal.clone();
            Box::pin(async move {
                let condemned = condemn(transaction, blob_id, which).await?;
                let Some((refs, store)) = condemned else {
                    return Ok(Verdict::Rollback(Merged::Superseded));
                };
                if !blobs::take_references(transaction, same, refs, digests.as_ref()).await? {
                    return Ok(Verdict::Rollback(Merged::Conflict));
                }
                file::Entity::update_many()
                    .col_expr(file::Column::BlobId, Expr::value(same))
                    .filter(file::Column::BlobId.eq(blob_id))
                    .exec(transaction)
                    .await?;
                tasks::enqueue(transaction, removal(blob_id), Some(store), now).await?;
                Ok(Verdict::Commit(Merged::Stored))
            })
        })
        .await
    }

    /// Rejects an unverified blob whose content does not match the expected digests: its files
    /// become corrupt and cannot be read any more. Marks the blob for deletion and enqueues
    /// `removal` for it.
    pub async fn reject_content(&self, blob_id: i64, removal: TaskForBlob) -> Result<Merged, DbErr> {
        let (quotas, now) = (self.quotas.clone(), self.clock.now_ms());
        self.write_or_undo(move |transaction| {
            let (removal, quotas) = (removal.clone(), quotas.clone());
            Box::pin(async move {
                let Some((_, store)) = condemn(transaction, blob_id, Which::Unverified).await? else {
                    return Ok(Verdict::Rollback(Merged::Superseded));
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
                    .col_expr(file::Column::ExpiresAt, Expr::value(now))
                    .filter(file::Column::BlobId.eq(blob_id))
                    .exec(transaction)
                    .await?;
                tasks::enqueue(transaction, removal(blob_id), Some(store), now).await?;
                // All files of a blob belong to one tenant.
                let sum: i64 = charged.iter().map(|(_, bytes)| bytes).sum();
                let tenant = charged.first().map_or("", |(tenant, _)| tenant);
                quotas.charge(transaction, tenant, -sum).await?;
                Ok(Verdict::Commit(Merged::Stored))
            })
        })
        .await
    }
}

/// Maps a conflict on the unique BLAKE3 index to `Changed`: a blob with the same content appeared
/// meanwhile.
fn or_changed(outcome: Result<Merged, DbErr>) -> Result<Merged, DbErr> {
    match outcome {
        Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
            Ok(Merged::Conflict)
        }
        outcome => outcome,
    }
}

async fn begin(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    fallback_id: i64,
    node_stores: &Here,
) -> Result<Merge, DbErr> {
    let Some(blob) = blob::Entity::find_by_id(blob_id).one(transaction).await? else {
        return Ok(Merge::Gone);
    };
    match (blob.state, blob.layout) {
        (blob::State::Stored, blob::Layout::Parts) => {}
        (blob::State::Stored, blob::Layout::Whole) => {
            let size = blobs::recorded_size(blob.id, blob.size)?;
            return Ok(Merge::AlreadyMerged(WholeBlob {
                key: recorded_key(&blob.object_key)?,
                size,
                store: blob.backend,
            }));
        }
        _ => return Ok(Merge::Gone),
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
    let row = blobs::writing_row((fallback_id, &blob.tenant), &blob.backend, key.to_string(), node_stores);
    blob::Entity::insert(row).exec_without_returning(transaction).await?;
    Ok(Merge::Ready(MergeIntent {
        intent_id: fallback_id,
        tenant: Tenant::from_recorded(&blob.tenant),
        key: recorded_key(key.as_str())?,
        size: blobs::recorded_size(blob.id, blob.size)?,
        expected: blobs::claims(&blob),
        has_multipart: blob.upload_id.is_some(),
        store: blob.backend,
    }))
}

/// Removes a write intent whose object the caller is about to give to the blob. If the blob has, or
/// may have, a multipart upload, the intent row stays and takes over the key of that upload's
/// object, marked for deletion. Returns `false` if the sweep was faster.
async fn take_intent(transaction: &DatabaseTransaction, intent_id: i64, blob_id: i64) -> Result<bool, DbErr> {
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
enum Which {
    /// Only a blob that is not verified yet.
    Unverified,
    Any,
}

/// Marks a stored blob for deletion. Returns the number of files that referred to it and its store;
/// `None` if it is not stored any more.
async fn condemn(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    which: Which,
) -> Result<Option<(i32, String)>, DbErr> {
    let mut condemned = blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
        // Deduplication must not find it by its digests any more.
        .col_expr(blob::Column::Md5, Expr::value(None::<Vec<u8>>))
        .col_expr(blob::Column::Blake3, Expr::value(None::<Vec<u8>>))
        .col_expr(blob::Column::Sha256, Expr::value(None::<Vec<u8>>))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Stored));
    if matches!(which, Which::Unverified) {
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
