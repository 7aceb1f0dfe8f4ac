//! The blob that receives the parts of an upload, and the choice of a part's write target.

use osproxy_storage::PartLayout;
use osproxy_types::uid::Uid;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, FromQueryResult,
    QueryFilter, QuerySelect, QueryTrait, sea_query::Expr,
};

use crate::{
    BeginPartOutcome, FileState, NodeStores, blobs,
    db::entities::{blob, file, part},
    files,
    uploads::multipart::{self, MultipartSlot},
};

/// The columns that determine the write target of a part.
#[derive(FromQueryResult)]
struct UploadRow {
    tenant: String,
    name: String,
    state: FileState,
    blob_id: Option<i64>,
    /// Store that receives the parts, if already chosen.
    backend: Option<String>,
    /// Row id of an earlier write with the same part number.
    earlier_write: Option<i64>,
    announced_size: Option<i64>,
    part_size: Option<i64>,
    slot_size: Option<i64>,
    received: i64,
}

/// The blob that receives the parts of an upload.
pub(crate) struct ReceivingBlob {
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) blob_id: i64,
    pub(crate) store: String,
    /// Row id of an earlier write with the same part number.
    pub(crate) earlier_write: Option<i64>,
    /// Total size and part size, if the client announced them.
    pub(crate) part_layout: Option<PartLayout>,
    /// Whether this is a partial upload. Its parts are separate objects, so that they can be moved
    /// to another blob.
    pub(crate) is_partial: bool,
    /// Size of the slots of the preallocated file, in bytes, if it is recorded and no layout is
    /// known.
    pub(crate) slot_size: Option<u64>,
    /// Bytes of the stored parts.
    pub(crate) received: u64,
}

/// Outcome of [`find_or_create`].
pub(crate) enum FindBlobOutcome {
    /// The blob that receives the parts.
    Found(ReceivingBlob),
    /// The reason why this node cannot receive parts of the upload. Never `Ready`.
    Refused(BeginPartOutcome),
}

impl ReceivingBlob {
    /// Claims the slot of part 1 in a preallocated file for this blob. Returns `None` if the store
    /// has no preallocated files, the part layout is unknown, part 1 cannot get a slot, or the
    /// upload is partial.
    pub(crate) async fn claim_slot(
        &self,
        transaction: &DatabaseTransaction,
        node_stores: &NodeStores,
    ) -> Result<Option<MultipartSlot>, DbErr> {
        let sizes = node_stores
            .store(&self.store)
            .and_then(|store| store.part_sizes)
            .filter(|sizes| sizes.preallocated);
        let (Some(layout), Some(sizes), false) = (self.part_layout, sizes, self.is_partial) else {
            return Ok(None);
        };
        let size = Ord::min(layout.part_size, layout.size);
        let key = node_stores.whole_key(&self.store, &self.name, self.blob_id);
        let slot = multipart::claim_slot(transaction, key, self.blob_id, 1, size, sizes).await?;
        Ok(slot.map(|slot| MultipartSlot { layout: Some(layout), ..slot }))
    }
}

/// Finds or creates the blob that receives the parts of an upload. A new blob gets the uid as its
/// id, or `fallback_id` if another blob may have that id. `number` is the number of the part about
/// to be written, or 0 for none.
pub(crate) async fn find_or_create(
    transaction: &DatabaseTransaction,
    uid: Uid,
    number: u32,
    fallback_id: i64,
    node_stores: &NodeStores,
) -> Result<FindBlobOutcome, DbErr> {
    let earlier_write = part::Entity::find()
        .select_only()
        .column(part::Column::Id)
        .filter(Expr::col((part::Entity, part::Column::BlobId)).equals((file::Entity, file::Column::BlobId)))
        .filter(part::Column::Number.eq(number.cast_signed()))
        .limit(1)
        .into_query();
    let row = file::Entity::find_by_id(uid.get())
        .left_join(blob::Entity)
        .select_only()
        .columns([file::Column::Tenant, file::Column::Name, file::Column::State, file::Column::BlobId])
        .columns([file::Column::AnnouncedSize, file::Column::PartSize, file::Column::Received])
        .columns([blob::Column::Backend, blob::Column::SlotSize])
        .column_as(Expr::SubQuery(None, Box::new(earlier_write.into())), "earlier_write");
    let row: Option<UploadRow> = row.into_model().one(transaction).await?;
    let Some(row) = row else {
        return Ok(FindBlobOutcome::Refused(BeginPartOutcome::Unknown));
    };
    let UploadRow {
        tenant,
        name,
        state,
        blob_id,
        backend,
        earlier_write,
        announced_size,
        part_size,
        slot_size,
        received,
    } = row;
    let layout = files::rows::part_layout(announced_size, part_size);
    let is_partial = state == file::State::Partial;
    if let (file::State::Receiving | file::State::Partial, Some(store)) = (state, &backend)
        && node_stores.store(store).is_none()
    {
        return Ok(FindBlobOutcome::Refused(BeginPartOutcome::OtherNode(store.clone())));
    }
    let store = backend.unwrap_or_else(|| node_stores.default_store().to_owned());
    let existing_blob = blob_id;
    if existing_blob.is_none() && !start_receiving(transaction, uid, state).await? {
        return Ok(FindBlobOutcome::Refused(BeginPartOutcome::Conflict));
    }
    let blob_id = match (state, blob_id) {
        (file::State::Receiving | file::State::Partial, Some(blob_id)) => blob_id,
        // A write of the whole content may have used the uid as its blob id.
        (file::State::Receiving, None) => fallback_id,
        (file::State::Pending | file::State::Partial, _) => uid.get(),
        (state, _) => return Ok(FindBlobOutcome::Refused(BeginPartOutcome::Closed(state))),
    };
    if existing_blob.is_none() {
        // The blob of a partial upload has no layout: the hashes of its parts must not depend on
        // where the parts are in this upload.
        let layout = layout.filter(|_| !is_partial);
        blob::Entity::insert(receiving_row(blob_id, &tenant, &store, node_stores, layout))
            .exec_without_returning(transaction)
            .await?;
        file::Entity::update_many()
            .col_expr(file::Column::BlobId, Expr::value(blob_id))
            .filter(file::Column::Uid.eq(uid.get()))
            .exec(transaction)
            .await?;
    }
    let received = u64::try_from(received).unwrap_or(0);
    Ok(FindBlobOutcome::Found(ReceivingBlob {
        tenant,
        name,
        blob_id,
        store,
        earlier_write,
        part_layout: layout,
        is_partial,
        slot_size: files::rows::decode_part_size(slot_size),
        received,
    }))
}

/// Moves a file without a blob from `state` to `receiving`; a partial upload stays `partial`. The
/// update locks the row of the file for the rest of the transaction. Returns `false` if the file is no longer in `state` or has a
/// blob.
async fn start_receiving(
    transaction: &DatabaseTransaction,
    uid: Uid,
    state: FileState,
) -> Result<bool, DbErr> {
    let next = if state == file::State::Partial { state } else { file::State::Receiving };
    let updated = file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(next))
        .filter(file::Column::Uid.eq(uid.get()))
        .filter(file::Column::State.eq(state))
        .filter(file::Column::BlobId.is_null())
        .exec(transaction)
        .await?;
    Ok(updated.rows_affected == 1)
}

pub(super) fn receiving_row(
    blob_id: i64,
    tenant: &str,
    store: &str,
    node_stores: &NodeStores,
    layout: Option<PartLayout>,
) -> blob::ActiveModel {
    blob::ActiveModel {
        state: Set(blob::State::Receiving),
        layout: Set(blob::BlobLayout::Parts),
        size: Set(layout.map_or(0, |layout| layout.size.cast_signed())),
        part_size: Set(layout.map(|layout| layout.part_size.cast_signed())),
        ..blobs::intent_row(blob_id, tenant, store, String::new(), node_stores)
    }
}
