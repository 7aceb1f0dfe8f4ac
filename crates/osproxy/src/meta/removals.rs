use osproxy_storage::Key;
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::Expr,
};

use super::{
    Change, FileState, Meta, TaskForBlob,
    entities::{blob, file, part},
    files::{is_blob, part_size, recorded_key},
    parts::own_object,
    quotas::Quotas,
    tasks,
    write_queue::Verdict,
};
use crate::{tenant::Tenant, uid::Uid};

/// Uploads that are not complete.
pub(super) const OPEN: [FileState; 3] = [FileState::Pending, FileState::Receiving, FileState::Completing];

/// What became of the wish to remove a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is gone. If nothing else shares its content, that is condemned and a task removes it.
    Now,
    /// It was gone before, or is not in a state to go.
    Before,
    /// No such uid.
    Unknown,
}

/// Which files are removed.
#[derive(Clone, Debug)]
struct Removal {
    /// They are in one of these states,
    from: Vec<FileState>,
    /// and get this one.
    to: FileState,
    /// Only those that expired before this moment, in milliseconds since the Unix epoch, if it is there.
    lapsed_before: Option<i64>,
}

/// What is left of a blob that is being removed.
#[derive(Clone, Debug)]
pub struct Remains {
    /// The store that all of it lies in.
    pub store: String,
    /// Numbers of its parts, and the keys of those that are objects.
    pub parts: Vec<(i64, Option<Key>)>,
    /// The one object, if it lies in one, or the one that the store was to make of parts.
    pub object: Option<Key>,
    /// Bytes of each part but the last, if that was settled.
    pub part_size: Option<u64>,
}

impl Meta {
    /// Removes a file of a tenant, in whatever state it is, and its claim on its content. If that was the last one, the content is
    /// condemned, so that nobody can share it any more, and `removal`, which gets the blob's number, is enqueued.
    pub async fn delete_file(
        &self,
        tenant: Tenant,
        uid: Uid,
        removal: TaskForBlob,
    ) -> Result<Removed, DbErr> {
        let any = [
            file::State::Pending,
            file::State::Receiving,
            file::State::Completing,
            file::State::Stored,
            file::State::Corrupt,
        ];
        let removal_of = Removal { from: any.to_vec(), to: FileState::Deleted, lapsed_before: None };
        self.remove(Some(tenant), uid, removal_of, removal).await
    }

    /// Gives an upload up that was not completed in time, as [`delete_file`](Self::delete_file) does: one that expired before
    /// this moment, in milliseconds since the Unix epoch. One that was renewed meanwhile stays.
    pub async fn expire_upload(
        &self,
        uid: Uid,
        lapsed_before: i64,
        removal: TaskForBlob,
    ) -> Result<Removed, DbErr> {
        let removal_of =
            Removal { from: OPEN.to_vec(), to: FileState::Expired, lapsed_before: Some(lapsed_before) };
        self.remove(None, uid, removal_of, removal).await
    }

    /// Lets an unfinished upload of a tenant last until `expires_at`, in milliseconds since the Unix epoch, if it would expire
    /// earlier. `false`: the tenant has no such upload, or it is no longer unfinished.
    pub async fn renew_upload(&self, tenant: Tenant, uid: Uid, expires_at: i64) -> Result<bool, DbErr> {
        self.write(move |transaction| {
            let tenant = tenant.clone();
            Box::pin(async move {
                let later = Expr::case(Expr::col(file::Column::ExpiresAt).lt(expires_at), expires_at)
                    .finally(Expr::col(file::Column::ExpiresAt));
                let renewed = file::Entity::update_many()
                    .col_expr(file::Column::ExpiresAt, later.into())
                    .filter(file::Column::Uid.eq(uid.get()))
                    .filter(file::Column::Tenant.eq(tenant.as_str()))
                    .filter(file::Column::State.is_in(OPEN));
                Ok(renewed.exec(transaction).await?.rows_affected == 1)
            })
        })
        .await
    }

    /// Gives an upload up that is not complete, because the client says so.
    pub async fn abort_upload(&self, uid: Uid, removal: TaskForBlob) -> Result<Removed, DbErr> {
        let removal_of = Removal { from: OPEN.to_vec(), to: FileState::Deleted, lapsed_before: None };
        self.remove(None, uid, removal_of, removal).await
    }

    /// If it is of that tenant; `None`: whosever it is.
    async fn remove(
        &self,
        tenant: Option<Tenant>,
        uid: Uid,
        removal_of: Removal,
        removal: TaskForBlob,
    ) -> Result<Removed, DbErr> {
        let (quotas, now) = (self.quotas.clone(), self.clock.now_ms());
        let removed = self
            .write_or_undo(move |transaction| {
                let (tenant, removal_of, removal) = (tenant.clone(), removal_of.clone(), removal.clone());
                let quotas = quotas.clone();
                Box::pin(async move {
                    let removed =
                        remove(transaction, tenant.as_ref(), uid, &removal_of, (&removal, now), &quotas)
                            .await?;
                    Ok(match removed {
                        Removed::Now => Verdict::Commit(Removed::Now),
                        other => Verdict::Rollback(other),
                    })
                })
            })
            .await;
        self.changed(Change::File(uid));
        removed
    }

    /// Up to `limit` uploads that were not complete when their time was over, at a moment in milliseconds since the
    /// Unix epoch; those that lapsed first come first.
    pub async fn lapsed_uploads(&self, at: i64, limit: u64) -> Result<Vec<Uid>, DbErr> {
        let lapsed = file::Entity::find()
            .select_only()
            .column(file::Column::Uid)
            .filter(file::Column::State.is_in(OPEN))
            .filter(file::Column::ExpiresAt.lt(at))
            .order_by_asc(file::Column::ExpiresAt)
            .limit(limit);
        let uids: Vec<i64> = lapsed.into_tuple().all(&self.reader).await?;
        Ok(uids.into_iter().map(Uid::from_recorded).collect())
    }

    /// What is left of a blob in state `deleting`, after nobody can begin a part of it any more; `None` when there is
    /// no such blob.
    pub async fn remains(&self, blob_id: i64) -> Result<Option<Remains>, DbErr> {
        self.write(move |transaction| Box::pin(remains(transaction, blob_id))).await
    }

    /// Removes rows of files that were gone before a moment (milliseconds since the Unix epoch), up to `limit`
    /// of them, and says how many.
    pub async fn purge_files(&self, gone_before: i64, limit: u64) -> Result<u64, DbErr> {
        self.write(move |transaction| {
            Box::pin(async move {
                let gone = file::Entity::find()
                    .select_only()
                    .column(file::Column::Uid)
                    .filter(file::Column::State.is_in([file::State::Expired, file::State::Deleted]))
                    .filter(file::Column::ExpiresAt.lt(gone_before))
                    .limit(limit);
                let uids: Vec<i64> = gone.into_tuple().all(transaction).await?;
                let purged = file::Entity::delete_many().filter(file::Column::Uid.is_in(uids));
                Ok(purged.exec(transaction).await?.rows_affected)
            })
        })
        .await
    }
}

async fn remove(
    transaction: &DatabaseTransaction,
    tenant: Option<&Tenant>,
    uid: Uid,
    Removal { from, to, lapsed_before }: &Removal,
    (removal, now): (&TaskForBlob, i64),
    quotas: &Quotas,
) -> Result<Removed, DbErr> {
    // Taken, so that its content stays the same until it has been let go.
    let file = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
    let is_meant = |file: &file::Model| tenant.is_none_or(|tenant| file.tenant == tenant.as_str());
    let Some(file) = file.filter(is_meant) else {
        return Ok(Removed::Unknown);
    };
    if !from.contains(&file.state) || lapsed_before.is_some_and(|before| file.expires_at >= before) {
        return Ok(Removed::Before);
    }
    let gone = file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(*to))
        .col_expr(file::Column::Listed, Expr::value(0))
        .col_expr(file::Column::BlobId, Expr::value(None::<i64>))
        .col_expr(file::Column::ExpiresAt, Expr::value(now))
        .col_expr(file::Column::Charged, Expr::value(0))
        .col_expr(file::Column::RecordBytes, Expr::value(0))
        .col_expr(file::Column::Metadata, Expr::value(None::<String>))
        .filter(file::Column::Uid.eq(uid.get()))
        .filter(file::Column::State.eq(file.state))
        .filter(is_blob(file.blob_id))
        .exec(transaction)
        .await?;
    if gone.rows_affected == 0 {
        return Ok(Removed::Before);
    }
    if let Some(blob_id) = file.blob_id
        && let Some(store) = drop_claim(transaction, blob_id).await?
    {
        tasks::enqueue(transaction, removal(blob_id), Some(store), now).await?;
    }
    quotas.charge(transaction, &file.tenant, -file.charged - file.record_bytes).await?;
    Ok(Removed::Now)
}

/// Makes a file whose content is not what it must be corrupt, before anybody could read it. Its blob is condemned, and
/// `removal`, which gets the blob's number, is enqueued.
pub(super) async fn reject_upload(
    transaction: &DatabaseTransaction,
    file: &file::Model,
    blob: &blob::Model,
    removal: &TaskForBlob,
    now: i64,
    quotas: &Quotas,
) -> Result<(), DbErr> {
    file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(FileState::Corrupt))
        .col_expr(file::Column::BlobId, Expr::value(None::<i64>))
        .col_expr(file::Column::StoredAt, Expr::value(None::<i64>))
        .col_expr(file::Column::ExpiresAt, Expr::value(now))
        .col_expr(file::Column::Charged, Expr::value(0))
        .filter(file::Column::Uid.eq(file.uid))
        .exec(transaction)
        .await?;
    if let Some(store) = drop_claim(transaction, blob.id).await? {
        tasks::enqueue(transaction, removal(blob.id), Some(store), now).await?;
    }
    quotas.charge(transaction, &file.tenant, -file.charged).await?;
    Ok(())
}

/// Takes one file's claim off a blob. If it was the last, the blob is condemned: then says in which store it lies.
async fn drop_claim(transaction: &DatabaseTransaction, blob_id: i64) -> Result<Option<String>, DbErr> {
    blob::Entity::update_many()
        .col_expr(blob::Column::Refs, Expr::col(blob::Column::Refs).sub(1))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Stored))
        .exec(transaction)
        .await?;
    let condemned = blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
        // Whoever sends the same content now is the first to do so.
        .col_expr(blob::Column::Md5, Expr::value(None::<Vec<u8>>))
        .col_expr(blob::Column::Blake3, Expr::value(None::<Vec<u8>>))
        .col_expr(blob::Column::Sha256, Expr::value(None::<Vec<u8>>))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::Refs.lte(0))
        .filter(blob::Column::State.is_in([blob::State::Stored, blob::State::Receiving]))
        .exec(transaction)
        .await?;
    if condemned.rows_affected == 0 {
        return Ok(None);
    }
    Ok(blob::Entity::find_by_id(blob_id).one(transaction).await?.map(|blob| blob.backend))
}

async fn remains(transaction: &DatabaseTransaction, blob_id: i64) -> Result<Option<Remains>, DbErr> {
    let blob = blob::Entity::find_by_id(blob_id).one(transaction).await?;
    let Some(blob) = blob.filter(|blob| blob.state == blob::State::Deleting) else {
        return Ok(None);
    };
    part::Entity::update_many()
        .col_expr(part::Column::State, Expr::value(part::State::Deleting))
        .filter(part::Column::BlobId.eq(blob_id))
        .exec(transaction)
        .await?;
    let rows = part::Entity::find().filter(part::Column::BlobId.eq(blob_id)).all(transaction).await?;
    let parts: Result<Vec<_>, DbErr> = rows.iter().map(|part| Ok((part.id, own_object(part)?))).collect();
    let parts = parts?;
    // The object that a merge writes has a row of its own.
    let has_object = blob.layout == blob::Layout::Whole || blob.upload_id.is_some();
    let object = has_object.then(|| recorded_key(&blob.object_key)).transpose()?;
    Ok(Some(Remains { store: blob.backend, parts, object, part_size: part_size(blob.part_size) }))
}
