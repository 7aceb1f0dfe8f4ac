//! The store's multipart uploads. The blob that collects the parts of a file records the key of the
//! future object and the store's upload id. A part inside that upload has a tag; any other part has
//! its own object.
//!
//! Stores reject a multipart upload if any part except the last is below the minimum size. osproxy
//! learns which part is the last only when the client completes the upload. Therefore
//! [`claim_slot`] gives no slot to a small part if a part with a higher number has a slot. After a
//! small part has got a slot, no part with a higher number gets a slot. In a preallocated file that
//! grows with its parts, minimum and maximum are the slot size.

use osproxy_storage::{Key, PartLayout};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
    sea_query::{CaseStatement, Condition, Expr},
};

use crate::MetaError;
use crate::{
    NodeStores, PartSizeLimits, UploadDb,
    access::quotas::Quotas,
    blobs, boxed_future,
    db::{
        dialect,
        entities::{blob, file, part},
    },
    files::rows::{decode_key, decode_part_size},
    uploads::parts::counts_as_received,
};

/// Highest part number that stores accept.
const MAX_PART_NUMBER: u32 = 10_000;

/// Minimum slot size of a preallocated file whose layout is not known, in bytes. Smaller parts are
/// separate objects.
const MIN_SLOT_SIZE: u64 = 64 << 10;

/// The slot size is a multiple of this size, in bytes, so that slots do not share blocks of the
/// file system: the space of a slot can then be freed.
const SLOT_ALIGNMENT: u64 = 4096;

/// A slot in a multipart upload of the store.
#[derive(Clone, Debug)]
pub struct MultipartSlot {
    /// Key of the object that the upload will become.
    pub key: Key,
    /// The store's upload id; `None` if the upload has not begun yet.
    pub upload_id: Option<String>,
    /// How the content is divided into parts, if known in advance.
    pub layout: Option<PartLayout>,
    /// Size of the slots of a preallocated file, in bytes, if the layout is not known.
    pub slot_size: Option<u64>,
}

/// A multipart upload to be completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultipartUpload {
    /// The blob that collects the parts.
    pub blob_id: i64,
    /// Name of the store.
    pub store: String,
    /// Key of the object that the upload will become.
    pub key: Key,
    /// The store's upload id.
    pub upload_id: String,
    /// Part numbers and tags, in ascending order.
    pub parts: Vec<(u32, String)>,
    /// Size of the object, in bytes: where the last of these parts ends. In a preallocated file,
    /// there may be holes between the parts.
    pub size: u64,
}

/// The parts that the store has lost or rejects.
#[derive(Clone, Debug)]
pub enum LostParts {
    /// The store lost the parts with these numbers; the upload continues.
    Parts(Vec<u32>),
    /// The store lost the whole upload. A new upload can be begun.
    Upload,
    /// The store rejects the parts. The client must send them again, and each part then gets its
    /// own object.
    Rejected,
}

impl UploadDb {
    /// Records the store's upload id for a blob, unless an id is recorded already. Returns the id
    /// that is recorded now, which callers must use; `None` if the blob no longer collects parts.
    #[boxed_future]
    pub async fn record_upload_id(
        &self,
        blob_id: i64,
        upload_id: String,
    ) -> Result<Option<String>, MetaError> {
        self.db
            .write(move |transaction| {
                let upload_id = upload_id.clone();
                Box::pin(async move {
                    blob::Entity::update_many()
                        .col_expr(blob::Column::UploadId, Expr::value(upload_id))
                        .filter(blob::Column::Id.eq(blob_id))
                        .filter(blob::Column::State.eq(blob::State::Receiving))
                        .filter(blob::Column::UploadId.eq(""))
                        .exec(transaction)
                        .await?;
                    recorded_upload_id(transaction, blob_id).await
                })
            })
            .await
    }

    /// Returns the store's upload id for a blob that collects parts, if an id is recorded.
    #[boxed_future]
    pub async fn upload_id(&self, blob_id: i64) -> Result<Option<String>, MetaError> {
        Ok(recorded_upload_id(&self.db.reader, blob_id).await?)
    }

    /// Drops parts that the store has lost or rejects, so that the client can send them again. A
    /// completing file goes back to `receiving`. Does nothing if the blob's upload is no longer
    /// `upload_id`.
    #[boxed_future]
    pub async fn drop_lost_parts(
        &self,
        blob_id: i64,
        upload_id: String,
        lost: LostParts,
    ) -> Result<(), MetaError> {
        let quotas = self.db.quotas.clone();
        self.db
            .write(move |transaction| {
                let (upload_id, lost, quotas) = (upload_id.clone(), lost.clone(), quotas.clone());
                Box::pin(async move { drop_lost(transaction, blob_id, &upload_id, &lost, &quotas).await })
            })
            .await
    }

    /// Like [`drop_lost_parts`](Self::drop_lost_parts), for an upload that the store did not find
    /// when a part was written. Changes nothing and returns `false` if the file no longer receives
    /// parts of this upload: the store may then have completed the upload instead of losing it.
    #[boxed_future]
    pub async fn drop_lost_upload(&self, blob_id: i64, upload_id: String) -> Result<bool, MetaError> {
        let quotas = self.db.quotas.clone();
        self.db
            .write(move |transaction| {
                let (upload_id, quotas) = (upload_id.clone(), quotas.clone());
                Box::pin(async move {
                    let receiving_file = file::Entity::find()
                        .filter(file::Column::BlobId.eq(blob_id))
                        .filter(file::Column::State.eq(file::State::Receiving))
                        .lock_exclusive();
                    let is_receiving = receiving_file.one(transaction).await?.is_some();
                    if !is_receiving
                        || recorded_upload_id(transaction, blob_id).await?.as_ref() != Some(&upload_id)
                    {
                        return Ok(false);
                    }
                    drop_lost(transaction, blob_id, &upload_id, &LostParts::Upload, &quotas).await?;
                    Ok(true)
                })
            })
            .await
    }
}

async fn recorded_upload_id(
    connection: &impl ConnectionTrait,
    blob_id: i64,
) -> Result<Option<String>, DbErr> {
    let upload_id = blob::Entity::find_by_id(blob_id)
        .select_only()
        .column(blob::Column::UploadId)
        .filter(blob::Column::State.eq(blob::State::Receiving));
    let upload_id: Option<Option<String>> = upload_id.into_tuple().one(connection).await?;
    Ok(upload_id.flatten().filter(|id| !id.is_empty()))
}

async fn drop_lost(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    upload_id: &str,
    lost: &LostParts,
    quotas: &Quotas,
) -> Result<(), DbErr> {
    // Lock order: every transaction locks the file before the blob.
    let file = file::Entity::find().filter(file::Column::BlobId.eq(blob_id)).lock_exclusive();
    let Some(file) = file.one(transaction).await? else {
        return Ok(());
    };
    let mut update = blob::Entity::update_many()
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Receiving))
        .filter(blob::Column::UploadId.eq(upload_id));
    update = match lost {
        LostParts::Parts(_) => update.col_expr(blob::Column::UploadId, Expr::value(upload_id)),
        LostParts::Upload => update
            .col_expr(blob::Column::UploadId, Expr::value(""))
            .col_expr(blob::Column::NativeHighest, Expr::value(None::<i32>))
            .col_expr(blob::Column::NativeSmall, Expr::value(None::<i32>)),
        // Record a small part with number 0. All part numbers are higher, so no more parts get a
        // slot in the multipart upload.
        LostParts::Rejected => update.col_expr(blob::Column::NativeSmall, Expr::value(0)),
    };
    if update.exec(transaction).await?.rows_affected == 0 {
        return Ok(());
    }
    // Parts in a multipart upload are not separate objects, so no object must be removed.
    let mut parts = part::Entity::update_many()
        .col_expr(part::Column::State, Expr::value(part::State::Gone))
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::Tag.is_not_null())
        .filter(part::Column::State.is_in([part::State::Writing, part::State::Partial, part::State::Stored]));
    if let LostParts::Parts(numbers) = lost {
        let numbers = numbers.iter().map(|number| number.cast_signed());
        parts = parts.filter(part::Column::Number.is_in(numbers));
    }
    parts.exec(transaction).await?;
    file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(file::State::Receiving))
        .filter(file::Column::BlobId.eq(blob_id))
        .filter(file::Column::State.eq(file::State::Completing))
        .exec(transaction)
        .await?;
    let received = received_bytes(transaction, blob_id).await?;
    let is_charged = file.announced_size.is_some() && file.part_size.is_some();
    let charged = if is_charged { file.charged } else { received };
    file::Entity::update_many()
        .col_expr(file::Column::Received, Expr::value(received))
        .col_expr(file::Column::Charged, Expr::value(charged))
        .filter(file::Column::Uid.eq(file.uid))
        .exec(transaction)
        .await?;
    quotas.charge(transaction, &file.tenant, charged - file.charged).await?;
    Ok(())
}

/// Bytes received in the stored and incomplete parts of a blob.
async fn received_bytes(transaction: &DatabaseTransaction, blob_id: i64) -> Result<i64, DbErr> {
    let sum = part::Entity::find()
        .select_only()
        .column_as(dialect::integer_sum(transaction.get_database_backend(), part::Column::Size), "sum")
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(counts_as_received());
    let sum: Option<Option<i64>> = sum.into_tuple().one(transaction).await?;
    Ok(sum.flatten().unwrap_or(0))
}

/// Claims a slot for a part of `size` bytes in the multipart upload of a blob that collects parts.
/// If the blob has no upload yet, records that an upload will be begun under `key`. Returns `None`
/// if the part must get its own object.
pub(crate) async fn claim_slot(
    transaction: &DatabaseTransaction,
    key: Key,
    blob_id: i64,
    number: u32,
    size: u64,
    sizes: PartSizeLimits,
) -> Result<Option<MultipartSlot>, DbErr> {
    if number > MAX_PART_NUMBER || size == 0 || size > sizes.max {
        return Ok(None);
    }
    let (n, is_small) = (number.cast_signed(), size < sizes.min);
    let highest = CaseStatement::new()
        .case(Condition::all().add(blob::Column::NativeHighest.gt(n)), Expr::col(blob::Column::NativeHighest))
        .finally(n);
    let upload_id = CaseStatement::new()
        .case(Condition::all().add(blob::Column::UploadId.is_null()), "")
        .finally(Expr::col(blob::Column::UploadId));
    // The file may have been renamed since the first part. The object keeps the key under which its
    // upload was begun.
    let object_key = CaseStatement::new()
        .case(Condition::all().add(blob::Column::ObjectKey.eq("")), key.as_str())
        .finally(Expr::col(blob::Column::ObjectKey));
    // A part below the minimum size must be the last one of the upload.
    let no_small_before =
        Condition::any().add(blob::Column::NativeSmall.is_null()).add(blob::Column::NativeSmall.gte(n));
    let mut update = blob::Entity::update_many()
        .col_expr(blob::Column::NativeHighest, highest.into())
        .col_expr(blob::Column::UploadId, upload_id.into())
        .col_expr(blob::Column::ObjectKey, object_key.into())
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Receiving))
        .filter(no_small_before);
    if is_small {
        let no_part_after = Condition::any()
            .add(blob::Column::NativeHighest.is_null())
            .add(blob::Column::NativeHighest.lte(n));
        update = update.col_expr(blob::Column::NativeSmall, Expr::value(n)).filter(no_part_after);
    }
    if update.exec(transaction).await?.rows_affected == 0 {
        return Ok(None);
    }
    // The UPDATE above locked the blob's row until the end of the transaction. Two concurrent
    // writes must not share a part number in the store, and a stored part must not be overwritten
    // before its replacement is stored.
    let recorded = blob::Entity::find_by_id(blob_id).select_only().columns([
        blob::Column::ObjectKey,
        blob::Column::UploadId,
        blob::Column::SlotSize,
    ]);
    let recorded: Option<(String, Option<String>, Option<i64>)> =
        recorded.into_tuple().one(transaction).await?;
    let Some((key, upload_id, slot_size)) = recorded else {
        return Ok(None);
    };
    let mut states = vec![part::State::Writing, part::State::Stored];
    // In a file that grows, the slot of a part that is being deleted is discarded, so it must not
    // be written before the part is gone.
    states.extend(slot_size.is_some().then_some(part::State::Deleting));
    // A suspended part with a tag occupies the slot; one without a tag is a separate object.
    let in_slot = Condition::all()
        .add(part::Column::State.eq(part::State::Partial))
        .add(part::Column::Tag.is_not_null());
    let existing = part::Entity::find()
        .select_only()
        .column(part::Column::Id)
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::Number.eq(n))
        .filter(Condition::any().add(part::Column::State.is_in(states)).add(in_slot));
    if existing.into_tuple::<i64>().one(transaction).await?.is_some() {
        return Ok(None);
    }
    let key = decode_key(&key)?;
    let upload_id = upload_id.filter(|id| !id.is_empty());
    Ok(Some(MultipartSlot { key, upload_id, layout: None, slot_size: None }))
}

/// Returns the slot size of a preallocated file whose layout is not known. The first part with a
/// known size determines it: clients usually send parts of one size. `recorded` is the slot size in
/// the blob's row, if any. Returns `None` if no slot size is recorded and the part does not have a
/// suitable size.
pub(crate) async fn choose_slot_size(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    recorded: Option<u64>,
    size: u64,
) -> Result<Option<u64>, DbErr> {
    if recorded.is_some() || size < MIN_SLOT_SIZE || !size.is_multiple_of(SLOT_ALIGNMENT) {
        return Ok(recorded);
    }
    let chosen = blob::Entity::update_many()
        .col_expr(blob::Column::SlotSize, Expr::value(size.cast_signed()))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::SlotSize.is_null())
        .exec(transaction)
        .await?;
    if chosen.rows_affected == 1 {
        return Ok(Some(size));
    }
    let column = blob::Entity::find_by_id(blob_id).select_only().column(blob::Column::SlotSize);
    let column: Option<Option<i64>> = column.into_tuple().one(transaction).await?;
    Ok(decode_part_size(column.flatten()))
}

/// Limits on the parts that get a slot of `slot_size` bytes: all slots must be full, except the
/// last. Returns `None` if part `number` cannot get a slot, because its slot would not begin before
/// the offset `max_slot_start`, in bytes.
pub(crate) fn limits_of_slots(number: u32, slot_size: u64, max_slot_start: u64) -> Option<PartSizeLimits> {
    let start = u64::from(number - 1).checked_mul(slot_size)?;
    (start < max_slot_start).then_some(PartSizeLimits { min: slot_size, max: slot_size, preallocated: true })
}

/// Returns the multipart upload to complete for a blob; `None` if no stored part is in a multipart
/// upload.
pub(crate) async fn upload_to_complete(
    connection: &impl ConnectionTrait,
    blob: &blob::Model,
    node_stores: &NodeStores,
) -> Result<Option<MultipartUpload>, DbErr> {
    let Some(upload_id) = blob.upload_id.as_ref().filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let rows = part::Entity::find()
        .filter(part::Column::BlobId.eq(blob.id))
        .filter(part::Column::State.eq(part::State::Stored))
        .filter(part::Column::Tag.is_not_null())
        .order_by_asc(part::Column::Number)
        .all(connection)
        .await?;
    let Some(last) = rows.last() else {
        return Ok(None);
    };
    let size = match blobs::slot_size(blob).filter(|_| node_stores.is_preallocated(&blob.backend)) {
        Some(slot_size) => u64::from(last.number.cast_unsigned() - 1) * slot_size + last.size.unsigned_abs(),
        None => rows.iter().map(|part| part.size.unsigned_abs()).sum(),
    };
    let numbered_tag = |part: part::Model| (part.number.cast_unsigned(), part.tag.unwrap_or_default());
    Ok(Some(MultipartUpload {
        blob_id: blob.id,
        store: blob.backend.clone(),
        key: decode_key(&blob.object_key)?,
        upload_id: upload_id.clone(),
        parts: rows.into_iter().map(numbered_tag).collect(),
        size,
    }))
}
