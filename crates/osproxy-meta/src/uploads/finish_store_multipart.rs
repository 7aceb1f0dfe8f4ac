//! Files in state `completing`: their store must complete a multipart upload. Afterwards, the file
//! becomes readable, or corrupt if its content fails the inspection.

use osproxy_storage::Digests;
use osproxy_types::{content_type, uid::Uid};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect, sea_query::Expr,
};

use crate::{
    CompleteOutcome, CompletePreconditions, EventKind, MetaError, MultipartUpload, NodeStores, UploadDb,
    access::quotas::Quotas,
    blobs::{self, blake3_tree, encode_digest},
    boxed_future,
    db::{
        entities::{blob, file, part},
        retry::retry_conflicts,
        write_batcher::TxEnd,
    },
    events::record::{EventContent, EventRecorder, FileEvent},
    files::delete::{self, FileTransition, RejectedUpload, RemoveContext},
    now_ms,
    objects::bind::ObjectBinder,
    processing,
    tasks::kind::{TaskKind, TaskSeed},
    uploads::{
        complete_parts::outcome_of,
        inspection::{InspectedUpload, InspectionVerdict, PassedInspection, inspect},
        multipart,
    },
};

/// Maximum number of attempts to finish an upload. An attempt fails if another transaction stores a
/// blob with the same content concurrently; the next attempt sees that blob.
const MAX_FINISH_ATTEMPTS: u32 = 5;

impl UploadDb {
    /// Returns up to `limit` completing files whose parts are in `store`, with the multipart upload
    /// that the store must complete for each file. Skips files that have no such multipart upload.
    #[boxed_future]
    pub async fn completing(
        &self,
        store: &str,
        limit: u64,
    ) -> Result<Vec<(Uid, MultipartUpload)>, MetaError> {
        let files = file::Entity::find()
            .inner_join(blob::Entity)
            .select_only()
            .column(file::Column::Uid)
            .filter(file::Column::State.eq(file::State::Completing))
            .filter(blob::Column::Backend.eq(store))
            .limit(limit);
        let uids: Vec<i64> = files.into_tuple().all(&self.db.reader).await?;
        let mut uploads = Vec::with_capacity(uids.len());
        for uid in uids.into_iter().map(Uid::from_db) {
            if let Some(multipart_upload) = self.completing_multipart(uid).await? {
                uploads.push((uid, multipart_upload));
            }
        }
        Ok(uploads)
    }

    /// Returns the multipart upload that the store must complete for a file; `None` if the file is
    /// not in state `completing` or no stored part is in a multipart upload.
    #[boxed_future]
    pub async fn completing_multipart(&self, uid: Uid) -> Result<Option<MultipartUpload>, MetaError> {
        let file = file::Entity::find_by_id(uid.get()).find_also_related(blob::Entity);
        let file = file.filter(file::Column::State.eq(file::State::Completing));
        match file.one(&self.db.reader).await? {
            Some((_, Some(blob))) => {
                Ok(multipart::upload_to_complete(&self.db.reader, &blob, &self.db.node_stores).await?)
            }
            _ => Ok(None),
        }
    }

    /// Makes the file readable after its store has completed the multipart upload. Some parts may
    /// still be separate objects; a task merges all parts later. If a digest or the MIME type does
    /// not match, the file becomes corrupt.
    ///
    /// Enqueues a task that verifies, merges or deletes the blob, if one is needed; `task_id` is an
    /// unused id for that task. Returns `NotOpen` if the file is no longer in state `completing`.
    #[boxed_future]
    pub async fn finish_multipart(
        &self,
        uid: Uid,
        blob_id: i64,
        preconditions: CompletePreconditions,
        task_id: Uid,
    ) -> Result<CompleteOutcome, MetaError> {
        let follow_up_task = self.db.task_seed(task_id);
        let node_stores = &self.db.node_stores;
        retry_conflicts(MAX_FINISH_ATTEMPTS, || {
            let (preconditions, quotas) = (preconditions.clone(), self.db.quotas.clone());
            let (node_stores, recorder) = (node_stores.clone(), self.db.event_recorder());
            let binder = ObjectBinder::new(&self.db, recorder.clone());
            let evicting = binder.clone();
            let finished = self.db.write_or_rollback(move |transaction| {
                let (preconditions, quotas) = (preconditions.clone(), quotas.clone());
                let (node_stores, recorder) = (node_stores.clone(), recorder.clone());
                let binder = binder.clone();
                Box::pin(async move {
                    let context = FinishContext {
                        uid,
                        blob_id,
                        preconditions: &preconditions,
                        follow_up_task,
                        node_stores: &node_stores,
                        recorder: &recorder,
                        binder: &binder,
                    };
                    Ok(match finish(transaction, context, &quotas).await? {
                        ended @ (CompleteOutcome::Completed
                        | CompleteOutcome::DigestMismatch(..)
                        | CompleteOutcome::TypeMismatch { .. }
                        | CompleteOutcome::Refused(_)) => TxEnd::Commit(ended),
                        other => TxEnd::Rollback(other),
                    })
                })
            });
            async move {
                let finished = finished.await;
                evicting.evict_replaced(&self.db);
                finished
            }
        })
        .await
    }
}

/// An upload to finish, after the store has completed the multipart upload.
struct FinishContext<'a> {
    uid: Uid,
    blob_id: i64,
    preconditions: &'a CompletePreconditions,
    /// The task that verifies, merges or deletes the blob.
    follow_up_task: TaskSeed,
    node_stores: &'a NodeStores,
    recorder: &'a EventRecorder,
    binder: &'a ObjectBinder,
}

/// Makes the file readable if its content passes inspection, or marks it corrupt if the inspection
/// fails. Changes nothing if parts must be read first.
async fn finish(
    transaction: &DatabaseTransaction,
    FinishContext { uid, blob_id, preconditions, follow_up_task, node_stores, recorder, binder }: FinishContext<'_>,
    quotas: &Quotas,
) -> Result<CompleteOutcome, DbErr> {
    let file = file::Entity::find_by_id(uid.get()).lock_exclusive();
    let Some(mut file) = file.one(transaction).await? else {
        return Ok(CompleteOutcome::Unknown);
    };
    let blob = blob::Entity::find_by_id(blob_id).one(transaction).await?;
    let (file::State::Completing, true, Some(blob)) = (file.state, file.blob_id == Some(blob_id), blob)
    else {
        return Ok(CompleteOutcome::NotOpen(file.state));
    };
    let size = blob.size.unsigned_abs();
    let upload = InspectedUpload {
        file: &file,
        blob: &blob,
        parts: file.part_count.unwrap_or(1).cast_unsigned(),
        size,
        expected: blobs::expected_digests(&blob),
    };
    let PassedInspection { sniffed, digests } = match inspect(transaction, upload, preconditions).await? {
        InspectionVerdict::Passed(passed) => passed,
        InspectionVerdict::NeedsInspection(inspection) => {
            return Ok(CompleteOutcome::NeedsInspection(inspection));
        }
        verdict => {
            let reason = verdict.to_string();
            let rejected = RejectedUpload { file: &file, blob: &blob, reason: &reason };
            delete::reject_upload(transaction, rejected, follow_up_task, quotas, recorder).await?;
            return Ok(outcome_of(verdict));
        }
    };
    if file.content_type.is_empty() {
        file.content_type = content_type::mime_type_of(sniffed.as_deref(), &file.name);
    }
    (file.state, file.stored_at) = (node_stores.processing.completed_state(), Some(now_ms()));
    file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(file.state))
        .col_expr(file::Column::StoredAt, Expr::value(file.stored_at))
        .col_expr(file::Column::ContentType, Expr::value(&file.content_type))
        .filter(file::Column::Uid.eq(uid.get()))
        .exec(transaction)
        .await?;
    let is_preallocated = node_stores.is_preallocated(&blob.backend);
    let is_whole = is_in_one_piece(transaction, blob_id, is_preallocated).await?;
    let layout = if is_whole { blob::BlobLayout::Whole } else { blob::BlobLayout::Parts };
    let mut update = blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob::State::Stored))
        .col_expr(blob::Column::Layout, Expr::value(layout))
        .col_expr(blob::Column::Refs, Expr::value(1))
        .col_expr(blob::Column::Sniffed, Expr::value(sniffed))
        .filter(blob::Column::Id.eq(blob_id));
    let digests = digests.filter(|_| is_preallocated);
    let known_digests = if is_whole { known_digests(transaction, &blob, digests).await? } else { None };
    if let Some(Digests { md5, sha256, blake3, size: _ }) = known_digests {
        update = update
            .col_expr(blob::Column::Md5, Expr::value(encode_digest(md5)))
            .col_expr(blob::Column::Sha256, Expr::value(encode_digest(sha256)))
            .col_expr(blob::Column::Blake3, Expr::value(blake3.to_vec()))
            .col_expr(blob::Column::UploadId, Expr::value(None::<String>));
        blake3_tree::delete_part_rows(transaction, blob_id).await?;
    }
    update.exec(transaction).await?;
    if let Some(refusal) = binder.complete_upload(transaction, &file, size, None, node_stores).await? {
        let deleted = delete_file(transaction, uid, follow_up_task, quotas, recorder).await;
        return deleted.map(|()| CompleteOutcome::Refused(refusal));
    }
    if node_stores.processing.blocking.is_empty() {
        let content = match &known_digests {
            Some(digests) => EventContent::of_digests(digests),
            None => EventContent { size: Some(size), ..EventContent::default() },
        };
        let completed = FileEvent::new(EventKind::FileCompleted, &file, content);
        recorder.record_files(transaction, [completed]).await?;
    }
    // On stores that do not preallocate, the task also aborts multipart uploads that were begun twice.
    if known_digests.is_none() || !is_preallocated {
        let kind = if is_whole { TaskKind::VerifyBlob } else { TaskKind::MergeParts };
        follow_up_task.enqueue(transaction, kind, blob_id, blob.backend).await?;
    }
    processing::enqueue_first(transaction, node_stores, uid, blob_id).await?;
    Ok(CompleteOutcome::Completed)
}

/// Deletes a file that cannot become the object that it was created as.
async fn delete_file(
    transaction: &DatabaseTransaction,
    uid: Uid,
    delete_task: TaskSeed,
    quotas: &Quotas,
    recorder: &EventRecorder,
) -> Result<(), DbErr> {
    let transition = FileTransition::delete();
    let removal = RemoveContext { transition: &transition, delete_task, recorder, name: None };
    delete::remove_row(transaction, None, uid, removal, quotas).await.map(drop)
}

/// Whether the object that the store has completed is the content: all parts are in it, without holes.
async fn is_in_one_piece(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    is_preallocated: bool,
) -> Result<bool, DbErr> {
    if has_own_objects(transaction, blob_id).await? {
        return Ok(false);
    }
    Ok(!is_preallocated || !has_gaps(transaction, blob_id).await?)
}

/// Whether parts of a blob are separate objects.
async fn has_own_objects(transaction: &DatabaseTransaction, blob_id: i64) -> Result<bool, DbErr> {
    let own_object = part::Entity::find()
        .select_only()
        .column(part::Column::Id)
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.eq(part::State::Stored))
        .filter(part::Column::Tag.is_null());
    Ok(own_object.into_tuple::<i64>().one(transaction).await?.is_some())
}

/// Whether numbers are missing between those of the parts. A preallocated file has holes in their
/// place.
async fn has_gaps(transaction: &DatabaseTransaction, blob_id: i64) -> Result<bool, DbErr> {
    let numbers = part::Entity::find()
        .select_only()
        .column_as(part::Column::Id.count(), "count")
        .column_as(part::Column::Number.max(), "highest")
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.eq(part::State::Stored));
    let numbers: Option<(i64, Option<i32>)> = numbers.into_tuple().one(transaction).await?;
    let (count, highest) = numbers.unwrap_or_default();
    Ok(count != i64::from(highest.unwrap_or(0)))
}

/// Returns the digests of a blob if verification can be skipped: the whole content was inspected
/// (`inspected`), or no MD5 or SHA-256 is expected and the BLAKE3 can be combined from the subtree
/// hashes of the parts. If another blob has the same content, returns `None`: the verification task
/// decides which of the two stays.
async fn known_digests(
    transaction: &DatabaseTransaction,
    blob: &blob::Model,
    inspected: Option<Digests>,
) -> Result<Option<Digests>, DbErr> {
    let digests = match inspected {
        Some(digests) => digests,
        None if blobs::expected_digests(blob).need_full_read() => return Ok(None),
        None => match blake3_tree::combined_blake3(transaction, blob).await? {
            Some(blake3) => Digests { size: blob.size.unsigned_abs(), md5: None, sha256: None, blake3 },
            None => return Ok(None),
        },
    };
    let duplicate = blob::Entity::find()
        .select_only()
        .column(blob::Column::Id)
        .filter(blob::Column::Tenant.eq(&blob.tenant))
        .filter(blob::Column::Blake3.eq(digests.blake3.to_vec()));
    let duplicate: Option<i64> = duplicate.into_tuple().one(transaction).await?;
    Ok(Some(digests).filter(|_| duplicate.is_none()))
}
