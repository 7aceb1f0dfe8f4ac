//! Concatenation of tus: the parts of partial uploads become the parts of one final upload. Only
//! rows change, no bytes are copied.

use std::collections::{BTreeSet, HashMap};

use osproxy_types::uid::Uid;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait, TryIntoModel, sea_query::Expr,
};

use crate::{
    FileState, MetaError, NewFile, NodeStores, UploadDb,
    access::{
        quotas::{ChargeOutcome, Quotas},
        upload_grants::{self, GrantRefusal},
    },
    boxed_future,
    db::{
        dialect,
        entities::{blob, file, part},
        write_batcher::TxEnd,
    },
    events::record::EventRecorder,
    files::create::{pending_row, record_created},
    uploads::receiving_blob::receiving_row,
};

/// Role of an upload in a concatenation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concatenation {
    /// A partial upload.
    Partial,
    /// A partial upload whose parts belong to this final upload now.
    Used(Uid),
    /// A final upload, made of these partial uploads.
    Final(Vec<Uid>),
}

impl Concatenation {
    pub(crate) fn of(file: &file::Model) -> Option<Self> {
        match (&file.partial_uids, file.final_uid, file.state) {
            (Some(uids), ..) => {
                Some(Self::Final(uids.split(' ').filter_map(|uid| uid.parse().ok()).collect()))
            }
            (None, Some(final_uid), _) => Some(Self::Used(Uid::from_db(final_uid))),
            (None, None, FileState::Partial) => Some(Self::Partial),
            (None, None, _) => None,
        }
    }
}

/// A final upload to be created.
#[derive(Clone, Debug)]
pub struct NewFinalUpload {
    /// The file. Its uid is also the id of its blob.
    pub file: NewFile,
    /// The partial uploads, in the order of the content. All different.
    pub partial_uids: Vec<Uid>,
    /// When the upload expires if it is not completed, in milliseconds since the Unix epoch.
    pub expires_at: i64,
    /// Maximum size in bytes.
    pub max_size: u64,
    /// Maximum number of parts.
    pub max_parts: u32,
}

/// Outcome of [`UploadDb::concatenate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConcatenateOutcome {
    /// The final upload was created and has all parts. It has this size in bytes.
    Created(u64),
    /// An earlier call made this final upload of the same partial uploads.
    Exists(Uid),
    /// A partial upload cannot be used.
    Refused(Uid, PartialProblem),
    /// The parts are in these stores, but must be in one store.
    SeveralStores(Vec<String>),
    /// There are too many parts.
    TooManyParts(u64),
    /// The content would exceed the maximum size.
    TooLarge,
    /// The row of the final upload would exceed the tenant's quota.
    OverQuota,
    /// The upload grant does not allow the final upload.
    GrantRefused(GrantRefusal),
}

/// Why a partial upload cannot become a part of a final upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartialProblem {
    /// The tenant has no upload with this uid.
    Unknown,
    /// It is not a partial upload.
    NotPartial,
    /// Bytes are missing.
    Unfinished,
    /// It was terminated, or has expired.
    Gone,
    /// It is a part of another final upload.
    Used,
}

impl UploadDb {
    /// Creates a final upload in state `receiving`, and moves all parts of its partial uploads to
    /// it. The partial uploads become `deleted`. The caller then completes the final upload.
    ///
    /// All partial uploads must have all their bytes and belong to the tenant of the final upload.
    /// Otherwise changes nothing. If an earlier call has moved the parts of the same partial
    /// uploads in the same order, returns the final upload of that call.
    #[boxed_future]
    pub async fn concatenate(&self, upload: NewFinalUpload) -> Result<ConcatenateOutcome, MetaError> {
        let (node_stores, quotas) = (self.db.node_stores.clone(), self.db.quotas.clone());
        let recorder = self.db.event_recorder();
        self.db
            .write_or_rollback(move |transaction| {
                let (node_stores, quotas) = (node_stores.clone(), quotas.clone());
                let (upload, recorder) = (upload.clone(), recorder.clone());
                Box::pin(async move {
                    Ok(match concatenate(transaction, &upload, &node_stores, &quotas, &recorder).await? {
                        created @ ConcatenateOutcome::Created(_) => TxEnd::Commit(created),
                        other => TxEnd::Rollback(other),
                    })
                })
            })
            .await
    }
}

async fn concatenate(
    transaction: &DatabaseTransaction,
    upload: &NewFinalUpload,
    node_stores: &NodeStores,
    quotas: &Quotas,
    recorder: &EventRecorder,
) -> Result<ConcatenateOutcome, DbErr> {
    let partial = match lock_partial_uploads(transaction, upload).await? {
        Ok(partial) => partial,
        Err(outcome) => return Ok(outcome),
    };
    let blob_ids: Vec<_> = partial.iter().filter_map(|file| file.blob_id).collect();
    let stores = blob::Entity::find()
        .select_only()
        .column(blob::Column::Backend)
        .filter(blob::Column::Id.is_in(blob_ids.iter().copied()))
        .distinct();
    let stores: BTreeSet<String> = stores.into_tuple().all(transaction).await?.into_iter().collect();
    if stores.len() > 1 {
        return Ok(ConcatenateOutcome::SeveralStores(stores.into_iter().collect()));
    }
    let parts = stored_parts(transaction, &blob_ids).await?;
    let (mut size, mut part_count) = (0_u64, 0_u64);
    for file in &partial {
        let parts = file.blob_id.and_then(|blob_id| parts.get(&blob_id)).copied().unwrap_or_default();
        // The last part may still be suspended, if the size was announced after its last byte.
        if parts.count != parts.highest || Some(parts.size) != file.announced_size {
            return Ok(ConcatenateOutcome::Refused(Uid::from_db(file.uid), PartialProblem::Unfinished));
        }
        size = size.saturating_add(parts.size.unsigned_abs());
        part_count += parts.count.unsigned_abs();
    }
    if size > upload.max_size {
        return Ok(ConcatenateOutcome::TooLarge);
    }
    if part_count > upload.max_parts.into() {
        return Ok(ConcatenateOutcome::TooManyParts(part_count));
    }
    let row = insert_final(transaction, upload, size, stores.first(), node_stores).await?;
    record_created(transaction, vec![row.clone()], recorder).await?;
    let row = row.try_into_model()?;
    let mut moved = 0;
    for (blob_id, parts) in partial.iter().filter_map(|file| file.blob_id).map(|id| (id, parts.get(&id))) {
        part::Entity::update_many()
            .col_expr(part::Column::Number, Expr::col(part::Column::Number).add(moved))
            .col_expr(part::Column::BlobId, Expr::value(row.uid))
            .filter(part::Column::BlobId.eq(blob_id))
            .filter(part::Column::State.eq(part::State::Stored))
            .exec(transaction)
            .await?;
        moved += parts.map_or(0, |parts| parts.count);
    }
    file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(FileState::Deleted))
        .col_expr(file::Column::FinalUid, Expr::value(row.uid))
        .col_expr(file::Column::BlobId, Expr::value(None::<i64>))
        .col_expr(file::Column::ExpiresAt, Expr::value(node_stores.clock.now_ms()))
        .col_expr(file::Column::Charged, Expr::value(0))
        .col_expr(file::Column::RecordBytes, Expr::value(0))
        .col_expr(file::Column::Metadata, Expr::value(None::<String>))
        .filter(file::Column::Uid.is_in(partial.iter().map(|file| file.uid)))
        .exec(transaction)
        .await?;
    remove_blobs(transaction, &blob_ids).await?;
    // The final upload takes the place of its partial uploads under their grant.
    for grant in partial.iter().filter_map(|file| file.grant_id) {
        upload_grants::release_upload(transaction, grant).await?;
    }
    if let Some(grant) = &upload.file.grant
        && let Some(refusal) =
            upload_grants::count_uploads(transaction, grant.id, 1, node_stores.clock.now_ms()).await?
    {
        return Ok(ConcatenateOutcome::GrantRefused(refusal));
    }
    let released: i64 = partial.iter().map(|file| file.charged + file.record_bytes).sum();
    let charge = row.charged + row.record_bytes - released;
    Ok(match quotas.charge(transaction, upload.file.tenant.as_str(), charge).await? {
        ChargeOutcome::Allowed => ConcatenateOutcome::Created(size),
        ChargeOutcome::OverQuota => ConcatenateOutcome::OverQuota,
    })
}

/// Locks and returns the rows of the partial uploads, in their order. Returns an outcome if they
/// cannot be used, or were used by an earlier call.
async fn lock_partial_uploads(
    transaction: &DatabaseTransaction,
    upload: &NewFinalUpload,
) -> Result<Result<Vec<file::Model>, ConcatenateOutcome>, DbErr> {
    // In the order of the uids, so that two transactions do not wait for each other.
    let rows = file::Entity::find()
        .filter(file::Column::Uid.is_in(upload.partial_uids.iter().map(|uid| uid.get())))
        .filter(file::Column::Tenant.eq(upload.file.tenant.as_str()))
        .order_by_asc(file::Column::Uid)
        .lock_exclusive();
    let mut rows: HashMap<_, _> =
        rows.all(transaction).await?.into_iter().map(|row| (Uid::from_db(row.uid), row)).collect();
    if let Some(final_uid) = upload.partial_uids.first().and_then(|uid| rows.get(uid)?.final_uid) {
        let earlier = file::Entity::find_by_id(final_uid).one(transaction).await?;
        let earlier = earlier.and_then(|file| Concatenation::of(&file));
        if earlier == Some(Concatenation::Final(upload.partial_uids.clone())) {
            return Ok(Err(ConcatenateOutcome::Exists(Uid::from_db(final_uid))));
        }
    }
    let mut partial = Vec::with_capacity(rows.len());
    for uid in &upload.partial_uids {
        let row = rows.remove(uid);
        let problem = match &row {
            None => PartialProblem::Unknown,
            Some(file) if file.final_uid.is_some() => PartialProblem::Used,
            Some(file) => match file.state {
                FileState::Partial if file.announced_size == Some(file.received) => {
                    partial.extend(row);
                    continue;
                }
                FileState::Partial => PartialProblem::Unfinished,
                FileState::Expired | FileState::Deleted => PartialProblem::Gone,
                _ => PartialProblem::NotPartial,
            },
        };
        return Ok(Err(ConcatenateOutcome::Refused(*uid, problem)));
    }
    Ok(Ok(partial))
}

/// The stored parts of a blob.
#[derive(Clone, Copy, Default)]
struct StoredParts {
    count: i64,
    /// Highest number.
    highest: i64,
    /// Total size in bytes.
    size: i64,
}

/// Sums up the stored parts of each blob.
async fn stored_parts(
    transaction: &DatabaseTransaction,
    blob_ids: &[i64],
) -> Result<HashMap<i64, StoredParts>, DbErr> {
    let sums = part::Entity::find()
        .select_only()
        .column(part::Column::BlobId)
        .column_as(part::Column::Id.count(), "count")
        .column_as(part::Column::Number.max(), "highest")
        .column_as(dialect::integer_sum(transaction.get_database_backend(), part::Column::Size), "size")
        .filter(part::Column::BlobId.is_in(blob_ids.iter().copied()))
        .filter(part::Column::State.eq(part::State::Stored))
        .group_by(part::Column::BlobId);
    let sums: Vec<(i64, i64, i32, i64)> = sums.into_tuple().all(transaction).await?;
    let entry = |(blob_id, count, highest, size): (i64, i64, i32, i64)| {
        (blob_id, StoredParts { count, highest: highest.into(), size })
    };
    Ok(sums.into_iter().map(entry).collect())
}

/// Inserts the final upload, and the blob for its parts if there are any.
async fn insert_final(
    transaction: &DatabaseTransaction,
    upload: &NewFinalUpload,
    size: u64,
    store: Option<&String>,
    node_stores: &NodeStores,
) -> Result<file::ActiveModel, DbErr> {
    let NewFinalUpload { file, partial_uids, expires_at, .. } = upload;
    let (uid, size) = (file.uid.get(), size.cast_signed());
    if let Some(store) = store {
        let row = receiving_row(uid, file.tenant.as_str(), store, node_stores, None);
        blob::Entity::insert(row).exec_without_returning(transaction).await?;
    }
    let pending = pending_row(file, *expires_at);
    let uids: Vec<_> = partial_uids.iter().map(Uid::to_string).collect();
    let row = file::ActiveModel {
        state: Set(if store.is_some() { FileState::Receiving } else { FileState::Pending }),
        blob_id: Set(store.map(|_| uid)),
        announced_size: Set(Some(size)),
        charged: Set(size),
        received: Set(size),
        partial_uids: Set(Some(uids.join(" "))),
        ..pending
    };
    file::Entity::insert(row.clone()).exec_without_returning(transaction).await?;
    Ok(row)
}

/// Removes the blobs whose stored parts were moved. Blobs with other parts, which are being written
/// or deleted, are left to the sweep.
async fn remove_blobs(transaction: &DatabaseTransaction, blob_ids: &[i64]) -> Result<(), DbErr> {
    let ids = || blob_ids.iter().copied();
    // This locks the rows, so that no part can be added.
    blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
        .filter(blob::Column::Id.is_in(ids()))
        .exec(transaction)
        .await?;
    part::Entity::delete_many()
        .filter(part::Column::BlobId.is_in(ids()))
        .filter(part::Column::State.eq(part::State::Gone))
        .exec(transaction)
        .await?;
    let parts = part::Entity::find()
        .select_only()
        .column(part::Column::BlobId)
        .filter(part::Column::BlobId.is_in(ids()))
        .into_query();
    blob::Entity::delete_many()
        .filter(blob::Column::Id.is_in(ids()))
        .filter(blob::Column::Id.not_in_subquery(parts))
        .exec(transaction)
        .await?;
    Ok(())
}
