//! Last step of completing a multipart upload, after the store has completed it.

use osproxy_types::{content_type, uid::Uid};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect, sea_query::Expr,
};

use crate::{
    CompleteOutcome, CompletePreconditions,
    access::quotas::Quotas,
    blobs::{self, blake3_tree},
    db::entities::{blob, file, part},
    files::delete,
    now_ms,
    tasks::kind::{TaskKind, TaskSeed},
    uploads::{
        complete::outcome_of,
        inspection::{InspectedUpload, InspectionVerdict, inspect},
    },
};

/// An upload whose multipart upload the store has completed.
pub(crate) struct FinishContext<'a> {
    pub(crate) uid: Uid,
    pub(crate) blob_id: i64,
    pub(crate) preconditions: &'a CompletePreconditions,
    /// The task that verifies, merges or deletes the blob.
    pub(crate) follow_up: TaskSeed,
}

/// Makes the file readable if its content passes inspection; otherwise marks it corrupt.
pub(crate) async fn finish_multipart(
    transaction: &DatabaseTransaction,
    FinishContext { uid, blob_id, preconditions: conditions, follow_up }: FinishContext<'_>,
    quotas: &Quotas,
) -> Result<CompleteOutcome, DbErr> {
    let file = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
    let Some(file) = file else {
        return Ok(CompleteOutcome::Unknown);
    };
    let blob = blob::Entity::find_by_id(blob_id).one(transaction).await?;
    let (file::State::Completing, true, Some(blob)) = (file.state, file.blob_id == Some(blob_id), blob)
    else {
        return Ok(CompleteOutcome::NotOpen(file.state));
    };
    let subject = InspectedUpload {
        file: &file,
        blob: &blob,
        parts: file.part_count.unwrap_or(1).cast_unsigned(),
        size: blob.size.unsigned_abs(),
        expected: blobs::expected_digests(&blob),
    };
    let sniffed = match inspect(transaction, subject, conditions).await? {
        InspectionVerdict::Passed(sniffed) => sniffed,
        InspectionVerdict::NeedsInspection(inspection) => {
            return Ok(CompleteOutcome::NeedsInspection(inspection));
        }
        refused => {
            delete::reject_upload(transaction, &file, &blob, follow_up, quotas).await?;
            return Ok(outcome_of(refused));
        }
    };
    let content_type = Some(file.content_type).filter(|known| !known.is_empty());
    let content_type =
        content_type.unwrap_or_else(|| content_type::mime_type_of(sniffed.as_deref(), &file.name));
    file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(file::State::Stored))
        .col_expr(file::Column::StoredAt, Expr::value(now_ms()))
        .col_expr(file::Column::ContentType, Expr::value(content_type))
        .filter(file::Column::Uid.eq(uid.get()))
        .exec(transaction)
        .await?;
    let object = part::Entity::find()
        .select_only()
        .column(part::Column::Id)
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.eq(part::State::Stored))
        .filter(part::Column::Tag.is_null());
    let is_whole = object.into_tuple::<i64>().one(transaction).await?.is_none();
    let layout = if is_whole { blob::BlobLayout::Whole } else { blob::BlobLayout::Parts };
    let mut complete = blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob::State::Stored))
        .col_expr(blob::Column::Layout, Expr::value(layout))
        .col_expr(blob::Column::Refs, Expr::value(1))
        .col_expr(blob::Column::Sniffed, Expr::value(sniffed))
        .filter(blob::Column::Id.eq(blob_id));
    let known = if is_whole { digest_without_reading(transaction, &blob).await? } else { None };
    if let Some(blake3) = known {
        complete = complete
            .col_expr(blob::Column::Blake3, Expr::value(blake3.to_vec()))
            .col_expr(blob::Column::UploadId, Expr::value(None::<String>));
        blake3_tree::delete_part_rows(transaction, blob_id).await?;
    }
    complete.exec(transaction).await?;
    if known.is_none() {
        let kind = if is_whole { TaskKind::VerifyBlob } else { TaskKind::MergeParts };
        follow_up.enqueue(transaction, kind, blob_id, blob.backend).await?;
    }
    Ok(CompleteOutcome::Completed)
}

/// Returns the BLAKE3 of a blob if verification can be skipped: it combines from the parts' subtree
/// hashes, no MD5 or SHA-256 is expected, and no other blob has the same content. If there is such
/// a blob, the verify task decides which of the two stays.
async fn digest_without_reading(
    transaction: &DatabaseTransaction,
    blob: &blob::Model,
) -> Result<Option<[u8; 32]>, DbErr> {
    if blob.claimed_md5.is_some() || blob.claimed_sha256.is_some() {
        return Ok(None);
    }
    let Some(blake3) = blake3_tree::combined_blake3(transaction, blob).await? else {
        return Ok(None);
    };
    let same = blob::Entity::find()
        .select_only()
        .column(blob::Column::Id)
        .filter(blob::Column::Tenant.eq(&blob.tenant))
        .filter(blob::Column::Blake3.eq(blake3.to_vec()));
    let same: Option<i64> = same.into_tuple().one(transaction).await?;
    Ok(Some(blake3).filter(|_| same.is_none()))
}
