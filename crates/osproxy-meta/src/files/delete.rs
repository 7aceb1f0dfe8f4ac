//! Deletion of files. A blob that loses its last file is marked for deletion in the same
//! transaction, which also enqueues the task that removes its objects.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter, QuerySelect,
    sea_query::Expr,
};

use crate::MetaError;
use crate::{
    EventKind, FileDb, FileState, Invalidation, TaskKind,
    access::{quotas::Quotas, upload_grants},
    boxed_future,
    db::{
        database::Database,
        entities::{blob, file},
        write_batcher::TxEnd,
    },
    events::record::{EventContent, EventRecorder, FileEvent, stored_blob},
    files::rows::has_blob,
    objects::{ObjectName, bind},
    tasks::kind::TaskSeed,
    uploads::expiry,
};

/// Outcome of deleting or expiring a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// The file is deleted or expired. If no other file shares its blob, the blob is marked for
    /// deletion and a task removes it.
    Deleted,
    /// Nothing changed: the file has not expired yet, or is in a state that does not allow the
    /// change, such as `deleted`.
    Unchanged,
    /// No such uid, or the file belongs to another tenant.
    Unknown,
}

/// The conditions for deleting or expiring a file, and the file's new state.
#[derive(Clone, Debug)]
pub(crate) struct FileTransition {
    /// The current state must be one of these.
    pub(crate) from: Vec<FileState>,
    /// The new state.
    pub(crate) to: FileState,
    /// If set, the file must have expired before this time, in milliseconds since the Unix epoch.
    pub(crate) expired_before: Option<i64>,
    /// The event that tells of it.
    pub(crate) event: EventKind,
}

impl FileTransition {
    /// Deletes a file that is not deleted or expired. A file in quarantine is kept for the operator.
    pub(crate) fn delete() -> Self {
        let from = vec![
            file::State::Pending,
            file::State::Receiving,
            file::State::Completing,
            file::State::Partial,
            file::State::Processing,
            file::State::Stored,
            file::State::Corrupt,
            file::State::Rejected,
        ];
        Self { from, to: FileState::Deleted, expired_before: None, event: EventKind::FileDeleted }
    }

    /// Deletes a file whose object is deleted or replaced. Includes files in quarantine: otherwise they
    /// would stay without a key, and the tenant would be charged for them.
    pub(crate) fn delete_with_object() -> Self {
        let mut transition = Self::delete();
        transition.from.push(FileState::Quarantined);
        transition
    }
}

impl FileDb {
    /// Deletes a file of a tenant, unless the file is already deleted or expired. If no other file
    /// shares the blob of the file, marks the blob for deletion and enqueues the task that deletes
    /// the blob; from then on no file can share the blob. `task_id` is an unused id for that task.
    #[boxed_future]
    pub async fn delete(&self, tenant: Tenant, uid: Uid, task_id: Uid) -> Result<DeleteOutcome, MetaError> {
        remove(&self.db, Some(tenant), uid, FileTransition::delete(), task_id).await
    }

    /// Deletes up to `limit` rows of files that were deleted or expired before `gone_before`, in
    /// milliseconds since the Unix epoch. Returns the number of deleted rows.
    #[boxed_future]
    pub async fn purge(&self, gone_before: i64, limit: u64) -> Result<u64, MetaError> {
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let removed = file::Entity::find()
                        .select_only()
                        .column(file::Column::Uid)
                        .filter(file::Column::State.is_in([file::State::Expired, file::State::Deleted]))
                        .filter(file::Column::ExpiresAt.lt(gone_before))
                        .limit(limit);
                    let uids: Vec<i64> = removed.into_tuple().all(transaction).await?;
                    let purged = file::Entity::delete_many().filter(file::Column::Uid.is_in(uids));
                    Ok(purged.exec(transaction).await?.rows_affected)
                })
            })
            .await
    }
}

/// Deletes or expires a file as `transition` says. With a `tenant`, returns `Unknown` for the files
/// of other tenants.
pub(crate) async fn remove(
    db: &Database,
    tenant: Option<Tenant>,
    uid: Uid,
    transition: FileTransition,
    task_id: Uid,
) -> Result<DeleteOutcome, MetaError> {
    let (quotas, delete_task) = (db.quotas.clone(), db.task_seed(task_id));
    let recorder = db.event_recorder();
    let outcome = db
        .write_or_rollback(move |transaction| {
            let (tenant, transition) = (tenant.clone(), transition.clone());
            let (quotas, recorder) = (quotas.clone(), recorder.clone());
            Box::pin(async move {
                let context =
                    RemoveContext { transition: &transition, delete_task, recorder: &recorder, name: None };
                let outcome = remove_row(transaction, tenant.as_ref(), uid, context, &quotas).await?;
                Ok(match outcome {
                    DeleteOutcome::Deleted => TxEnd::Commit(DeleteOutcome::Deleted),
                    other => TxEnd::Rollback(other),
                })
            })
        })
        .await;
    db.invalidate_everywhere(Invalidation::File(uid));
    outcome
}

/// How to remove a file.
pub(crate) struct RemoveContext<'a> {
    pub(crate) transition: &'a FileTransition,
    pub(crate) delete_task: TaskSeed,
    pub(crate) recorder: &'a EventRecorder,
    /// The bucket and key that the file had, if it no longer has them.
    pub(crate) name: Option<&'a ObjectName>,
}

/// Removes a file, and its key if it is an object.
pub(crate) async fn remove_row(
    transaction: &DatabaseTransaction,
    tenant: Option<&Tenant>,
    uid: Uid,
    RemoveContext { transition, delete_task, recorder, name }: RemoveContext<'_>,
    quotas: &Quotas,
) -> Result<DeleteOutcome, DbErr> {
    let FileTransition { from, to, expired_before, event } = transition;
    // The lock ensures that the file refers to the same blob until the reference is dropped.
    let file = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
    let is_of_tenant = |file: &file::Model| tenant.is_none_or(|tenant| file.tenant == tenant.as_str());
    let Some(file) = file.filter(is_of_tenant) else {
        return Ok(DeleteOutcome::Unknown);
    };
    if !from.contains(&file.state) || expired_before.is_some_and(|before| file.expires_at >= before) {
        return Ok(DeleteOutcome::Unchanged);
    }
    let updated = file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(*to))
        .col_expr(file::Column::Listed, Expr::value(0))
        .col_expr(file::Column::BlobId, Expr::value(None::<i64>))
        .col_expr(file::Column::ExpiresAt, Expr::value(delete_task.now))
        .col_expr(file::Column::Charged, Expr::value(0))
        .col_expr(file::Column::RecordBytes, Expr::value(0))
        .col_expr(file::Column::Metadata, Expr::value(None::<String>))
        .col_expr(file::Column::BucketId, Expr::value(None::<i64>))
        .filter(file::Column::Uid.eq(uid.get()))
        .filter(file::Column::State.eq(file.state))
        .filter(has_blob(file.blob_id))
        .exec(transaction)
        .await?;
    if updated.rows_affected == 0 {
        return Ok(DeleteOutcome::Unchanged);
    }
    record_removed(transaction, &file, *event, name, recorder).await?;
    bind::unbind(transaction, &file).await?;
    if let Some(blob_id) = file.blob_id
        && let Some(store) = drop_reference(transaction, blob_id).await?
    {
        delete_task.enqueue(transaction, TaskKind::DeleteBlob, blob_id, store).await?;
    }
    if let Some(grant) = file.grant_id.filter(|_| expiry::OPEN_STATES.contains(&file.state)) {
        upload_grants::release_upload(transaction, grant).await?;
    }
    quotas.charge(transaction, &file.tenant, -file.charged - file.record_bytes).await?;
    Ok(DeleteOutcome::Deleted)
}

/// Records that a file was deleted or has expired. Call it before the blob loses its digests and the
/// file its key.
async fn record_removed(
    transaction: &DatabaseTransaction,
    file: &file::Model,
    kind: EventKind,
    name: Option<&ObjectName>,
    recorder: &EventRecorder,
) -> Result<(), DbErr> {
    if !recorder.is_enabled() || file.state == FileState::Partial {
        return Ok(());
    }
    let blob = stored_blob(transaction, file).await?;
    let content = blob.as_ref().map_or(EventContent::announced(file), EventContent::of_blob);
    let removed = FileEvent::new(kind, file, content);
    recorder.record_files(transaction, [FileEvent { object: name, ..removed }]).await
}

/// An upload whose content has failed inspection.
pub(crate) struct RejectedUpload<'a> {
    pub(crate) file: &'a file::Model,
    pub(crate) blob: &'a blob::Model,
    /// What is wrong with the content.
    pub(crate) reason: &'a str,
}

/// Marks a completing file as corrupt, because its content failed inspection before anyone could
/// read it. Drops the file's reference to the blob. If no other reference exists, enqueues the task
/// that deletes the blob.
pub(crate) async fn reject_upload(
    transaction: &DatabaseTransaction,
    RejectedUpload { file, blob, reason }: RejectedUpload<'_>,
    delete_task: TaskSeed,
    quotas: &Quotas,
    recorder: &EventRecorder,
) -> Result<(), DbErr> {
    file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(FileState::Corrupt))
        .col_expr(file::Column::BlobId, Expr::value(None::<i64>))
        .col_expr(file::Column::BucketId, Expr::value(None::<i64>))
        .col_expr(file::Column::StoredAt, Expr::value(None::<i64>))
        .col_expr(file::Column::ExpiresAt, Expr::value(delete_task.now))
        .col_expr(file::Column::Charged, Expr::value(0))
        .filter(file::Column::Uid.eq(file.uid))
        .exec(transaction)
        .await?;
    let content = EventContent { size: Some(blob.size.unsigned_abs()), ..EventContent::default() };
    let corrupt = FileEvent::new(EventKind::FileCorrupt, file, content);
    recorder.record_files(transaction, [FileEvent { reason: Some(reason), ..corrupt }]).await?;
    bind::unbind(transaction, file).await?;
    if let Some(store) = drop_reference(transaction, blob.id).await? {
        delete_task.enqueue(transaction, TaskKind::DeleteBlob, blob.id, store).await?;
    }
    quotas.charge(transaction, &file.tenant, -file.charged).await?;
    Ok(())
}

/// Removes one file's reference to a blob. If no reference remains, marks the blob for deletion and
/// returns the name of its store.
pub(crate) async fn drop_reference(
    transaction: &DatabaseTransaction,
    blob_id: i64,
) -> Result<Option<String>, DbErr> {
    blob::Entity::update_many()
        .col_expr(blob::Column::Refs, Expr::col(blob::Column::Refs).sub(1))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.is_in([blob::State::Stored, blob::State::Quarantined]))
        .exec(transaction)
        .await?;
    let droppable = [blob::State::Stored, blob::State::Quarantined, blob::State::Receiving];
    let marked = blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
        // Deduplication must not find the blob any more.
        .col_expr(blob::Column::Md5, Expr::value(None::<Vec<u8>>))
        .col_expr(blob::Column::Blake3, Expr::value(None::<Vec<u8>>))
        .col_expr(blob::Column::Sha256, Expr::value(None::<Vec<u8>>))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::Refs.lte(0))
        .filter(blob::Column::State.is_in(droppable))
        .exec(transaction)
        .await?;
    if marked.rows_affected == 0 {
        return Ok(None);
    }
    Ok(blob::Entity::find_by_id(blob_id).one(transaction).await?.map(|blob| blob.backend))
}
