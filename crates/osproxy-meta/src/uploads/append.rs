//! Appends to an upload: where the next byte goes, and parts whose last bytes were not received
//! yet. Such a part is suspended, and a later write continues it.

use osproxy_storage::{Key, PartLayout};
use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, sea_query::Expr,
};

use crate::{
    Concatenation, FileState, MetaError, MultipartSlot, PartIntent, UploadDb,
    access::quotas::ChargeOutcome,
    blobs, boxed_future,
    db::{
        entities::{blob, file, part},
        write_batcher::TxEnd,
    },
    files::rows::{decode_key, part_layout},
    now_ms,
    uploads::parts::{add_received, counts_as_received, lock_receiving},
};

/// Where the next byte of an upload goes.
#[derive(Clone, Debug)]
pub struct AppendPosition {
    /// The owner of the file.
    pub tenant: Tenant,
    /// State of the file.
    pub state: FileState,
    /// The store that receives the parts, if it is chosen.
    pub store: Option<String>,
    /// Durable bytes from the start of the content up to the first missing byte.
    pub offset: u64,
    /// Size of the content in bytes, if it is known.
    pub size: Option<u64>,
    /// How the content is divided into parts, if known in advance.
    pub layout: Option<PartLayout>,
    /// Size of the slots of the preallocated file, in bytes, if no layout is known.
    pub slot_size: Option<u64>,
    /// Number of the part that contains the next byte.
    pub number: u32,
    /// The first bytes of that part, if it was suspended.
    pub suspended: Option<SuspendedPart>,
    /// Role of the upload in a concatenation, if any.
    pub concatenation: Option<Concatenation>,
}

/// A part whose first bytes are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspendedPart {
    /// Row id.
    pub id: i64,
    /// Durable bytes.
    pub size: u64,
    /// Key of the object with these bytes; `None` if they are in the slot of the part.
    pub key: Option<Key>,
    /// BLAKE3 of these bytes, computed as for a whole part.
    pub blake3: Option<[u8; 32]>,
    /// Whether a write that continues this part is running, or broke off and is not cleaned up yet.
    /// `size` does not include the bytes of that write.
    pub is_resumed: bool,
}

/// Outcome of [`UploadDb::suspend_part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspendPartOutcome {
    /// The bytes are recorded. Contains the row id of the earlier suspended part that these bytes
    /// replace, if any. The caller removes it.
    Suspended(Option<i64>),
    /// The part is stored, or a suspended part has more bytes. The caller discards the new write.
    Superseded,
    /// The file does not take parts of this blob any more.
    Closed,
    /// The received bytes would exceed the announced size, in bytes.
    ExceedsAnnounced(u64),
    /// The bytes would exceed the tenant's quota.
    OverQuota,
    /// The write intent is gone.
    Swept,
}

/// Outcome of [`UploadDb::announce_size`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnounceSizeOutcome {
    /// The size is announced, now or before.
    Announced,
    /// Another size was announced before.
    Differs(u64),
    /// More bytes were received: this many.
    TooSmall(u64),
    /// The file is in this state.
    Closed(FileState),
    /// No such uid.
    Unknown,
}

impl UploadDb {
    /// Returns where the next byte of an upload goes; `None` for an unknown uid.
    #[boxed_future]
    pub async fn append_position(&self, uid: Uid) -> Result<Option<AppendPosition>, MetaError> {
        let row =
            file::Entity::find_by_id(uid.get()).find_also_related(blob::Entity).one(&self.db.lookups).await?;
        let Some((file, blob)) = row else {
            return Ok(None);
        };
        let mut position = AppendPosition {
            tenant: Tenant::from_db(&file.tenant),
            state: file.state,
            store: blob.as_ref().map(|blob| blob.backend.clone()),
            offset: 0,
            size: file.announced_size.map(i64::unsigned_abs),
            layout: part_layout(file.announced_size, file.part_size),
            slot_size: None,
            number: 1,
            suspended: None,
            concatenation: Concatenation::of(&file),
        };
        match blob {
            Some(blob) if blob.state == blob::State::Receiving => {
                position.slot_size = blobs::slot_size(&blob).filter(|_| position.layout.is_none());
                find_next_byte(&self.db.reader, blob.id, &mut position).await?;
                if position.offset == 0
                    && let Some(size) = completed_size(&self.db.reader, blob.id).await?
                {
                    // Between the two queries, the upload was completed and its parts were removed.
                    position.state = FileState::Stored;
                    (position.offset, position.size) = (size, Some(size));
                }
            }
            Some(blob) => {
                position.offset = blob.size.unsigned_abs();
                position.size = Some(position.offset);
            }
            None if matches!(position.concatenation, Some(Concatenation::Used(_))) => {
                position.offset = file.received.unsigned_abs();
            }
            None => {}
        }
        Ok(Some(position))
    }

    /// Announces the size of the content of an open upload. The tenant is still charged when the
    /// bytes arrive.
    #[boxed_future]
    pub async fn announce_size(&self, uid: Uid, size: u64) -> Result<AnnounceSizeOutcome, MetaError> {
        self.db
            .write_or_rollback(move |transaction| {
                Box::pin(async move {
                    let file = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
                    let Some(file) = file else {
                        return Ok(TxEnd::Rollback(AnnounceSizeOutcome::Unknown));
                    };
                    if let Some(refusal) = refuse_size(&file, size) {
                        return Ok(TxEnd::Rollback(refusal));
                    }
                    file::Entity::update_many()
                        .col_expr(file::Column::AnnouncedSize, Expr::value(size.cast_signed()))
                        .filter(file::Column::Uid.eq(uid.get()))
                        .exec(transaction)
                        .await?;
                    Ok(TxEnd::Commit(AnnounceSizeOutcome::Announced))
                })
            })
            .await
    }

    /// Continues a suspended part in its slot: records the intent to write the bytes after the
    /// first `size`. Returns `None` if another write has continued or replaced the part.
    #[boxed_future]
    pub async fn resume_part(&self, uid: Uid, part_id: i64) -> Result<Option<PartIntent>, MetaError> {
        let node = self.db.node_stores.node.clone();
        self.db
            .write(move |transaction| {
                let node = node.clone();
                Box::pin(async move {
                    let resumed = part::Entity::update_many()
                        .col_expr(part::Column::State, Expr::value(part::State::Writing))
                        .col_expr(part::Column::WrittenBy, Expr::value(node))
                        .filter(part::Column::Id.eq(part_id))
                        .filter(part::Column::State.eq(part::State::Partial))
                        .exec(transaction)
                        .await?;
                    if resumed.rows_affected == 0 {
                        return Ok(None);
                    }
                    resumed_intent(transaction, uid, part_id).await
                })
            })
            .await
    }

    /// Drops a suspended part whose bytes are lost, also while a write continues it. The sweep or the
    /// write guard removes its row.
    #[boxed_future]
    pub async fn drop_suspended_part(&self, uid: Uid, part_id: i64) -> Result<(), MetaError> {
        let quotas = self.db.quotas.clone();
        self.db
            .write(move |transaction| {
                let quotas = quotas.clone();
                Box::pin(async move {
                    let row = part::Entity::find_by_id(part_id).one(transaction).await?;
                    let Some(row) = row else {
                        return Ok(());
                    };
                    let Some(receiving) = lock_receiving(transaction, uid, row.blob_id).await? else {
                        return Ok(());
                    };
                    let dropped = part::Entity::update_many()
                        .col_expr(part::Column::State, Expr::value(part::State::Deleting))
                        .filter(part::Column::Id.eq(part_id))
                        .filter(counts_as_received())
                        .filter(part::Column::State.ne(part::State::Stored))
                        .exec(transaction)
                        .await?;
                    if dropped.rows_affected == 0 {
                        return Ok(());
                    }
                    add_received(transaction, uid, receiving, -row.size, None, &quotas).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Records that the first `size` bytes of the part of `intent` are durable, and that no write
    /// continues the part now. `blake3` is their BLAKE3.
    #[boxed_future]
    pub async fn suspend_part(
        &self,
        uid: Uid,
        intent: &PartIntent,
        size: u64,
        blake3: [u8; 32],
    ) -> Result<SuspendPartOutcome, MetaError> {
        let (id, blob_id, number) = (intent.id, intent.blob_id, intent.number);
        let (size, resumed, quotas) =
            (size.cast_signed(), intent.resumed.cast_signed(), self.db.quotas.clone());
        self.db
            .write_or_rollback(move |transaction| {
                let quotas = quotas.clone();
                Box::pin(async move {
                    let Some(receiving) = lock_receiving(transaction, uid, blob_id).await? else {
                        return Ok(TxEnd::Rollback(SuspendPartOutcome::Closed));
                    };
                    let earlier = part::Entity::find()
                        .filter(part::Column::BlobId.eq(blob_id))
                        .filter(part::Column::Number.eq(number.cast_signed()))
                        .filter(part::Column::Id.ne(id))
                        .filter(counts_as_received());
                    let earlier = earlier.one(transaction).await?;
                    if let Some(earlier) = &earlier {
                        if earlier.state != part::State::Partial || earlier.size >= size {
                            return Ok(TxEnd::Rollback(SuspendPartOutcome::Superseded));
                        }
                        mark_deleting(transaction, earlier.id).await?;
                    }
                    let suspended = part::Entity::update_many()
                        .col_expr(part::Column::State, Expr::value(part::State::Partial))
                        .col_expr(part::Column::Size, Expr::value(size))
                        .col_expr(part::Column::Piece, Expr::value(blake3.to_vec()))
                        .col_expr(part::Column::StoredAt, Expr::value(now_ms()))
                        .filter(part::Column::Id.eq(id))
                        .filter(part::Column::State.eq(part::State::Writing))
                        .exec(transaction)
                        .await?;
                    if suspended.rows_affected == 0 {
                        return Ok(TxEnd::Rollback(SuspendPartOutcome::Swept));
                    }
                    let replaced = earlier.as_ref().map_or(0, |earlier| earlier.size);
                    let added = size - resumed - replaced;
                    if let Some(announced) = receiving.exceeded_size(added) {
                        return Ok(TxEnd::Rollback(SuspendPartOutcome::ExceedsAnnounced(announced)));
                    }
                    let charged = add_received(transaction, uid, receiving, added, None, &quotas).await?;
                    let replaced = earlier.map(|earlier| earlier.id);
                    Ok(match charged {
                        ChargeOutcome::OverQuota => TxEnd::Rollback(SuspendPartOutcome::OverQuota),
                        ChargeOutcome::Allowed => TxEnd::Commit(SuspendPartOutcome::Suspended(replaced)),
                    })
                })
            })
            .await
    }
}

/// Why a size cannot be announced, or need not be.
fn refuse_size(file: &file::Model, size: u64) -> Option<AnnounceSizeOutcome> {
    if let Some(announced) = file.announced_size.map(i64::unsigned_abs) {
        let is_same = announced == size;
        let differs = AnnounceSizeOutcome::Differs(announced);
        return Some(if is_same { AnnounceSizeOutcome::Announced } else { differs });
    }
    if !matches!(file.state, FileState::Pending | FileState::Receiving | FileState::Partial) {
        return Some(AnnounceSizeOutcome::Closed(file.state));
    }
    let received = file.received.unsigned_abs();
    (received > size).then_some(AnnounceSizeOutcome::TooSmall(received))
}

async fn mark_deleting(transaction: &DatabaseTransaction, part_id: i64) -> Result<(), DbErr> {
    part::Entity::update_many()
        .col_expr(part::Column::State, Expr::value(part::State::Deleting))
        .filter(part::Column::Id.eq(part_id))
        .exec(transaction)
        .await?;
    Ok(())
}

/// Returns the size of a blob if it is stored.
async fn completed_size(connection: &impl ConnectionTrait, blob_id: i64) -> Result<Option<u64>, DbErr> {
    let size = blob::Entity::find_by_id(blob_id)
        .select_only()
        .column(blob::Column::Size)
        .filter(blob::Column::State.eq(blob::State::Stored));
    let size: Option<i64> = size.into_tuple().one(connection).await?;
    Ok(size.map(i64::unsigned_abs))
}

/// Sets the offset of `position`, and the part that contains it.
async fn find_next_byte(
    connection: &impl ConnectionTrait,
    blob_id: i64,
    position: &mut AppendPosition,
) -> Result<(), DbErr> {
    let rows = part::Entity::find()
        .select_only()
        .columns([part::Column::Number, part::Column::Size, part::Column::State])
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(counts_as_received())
        .order_by_asc(part::Column::Number);
    for (number, size, state) in rows.into_tuple::<(i32, i64, part::State)>().all(connection).await? {
        if number.cast_unsigned() != position.number || state != part::State::Stored {
            break;
        }
        position.offset += size.unsigned_abs();
        position.number += 1;
    }
    let suspended = part::Entity::find()
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::Number.eq(position.number.cast_signed()))
        .filter(counts_as_received())
        .one(connection)
        .await?;
    if let Some(part) = suspended {
        let size = part.size.unsigned_abs();
        position.offset += size;
        let key = part.tag.is_none().then(|| decode_key(&part.object_key)).transpose()?;
        let blake3 = blobs::decode_digest(part.piece.as_ref());
        let is_resumed = part.state == part::State::Writing;
        position.suspended = Some(SuspendedPart { id: part.id, size, key, blake3, is_resumed });
    }
    Ok(())
}

/// The intent to continue the part in row `part_id`; `None` if its blob takes no more parts.
async fn resumed_intent(
    transaction: &DatabaseTransaction,
    uid: Uid,
    part_id: i64,
) -> Result<Option<PartIntent>, DbErr> {
    let row = part::Entity::find_by_id(part_id).find_also_related(blob::Entity).one(transaction).await?;
    let Some((part, Some(blob))) = row.filter(|(part, _)| part.tag.is_some()) else {
        return Ok(None);
    };
    let size: Option<Option<i64>> = file::Entity::find_by_id(uid.get())
        .select_only()
        .column(file::Column::AnnouncedSize)
        .into_tuple()
        .one(transaction)
        .await?;
    let layout = part_layout(size.flatten(), blob.part_size);
    let slot = MultipartSlot {
        key: decode_key(&blob.object_key)?,
        upload_id: blob.upload_id.clone().filter(|id| !id.is_empty()),
        layout,
        slot_size: blobs::slot_size(&blob).filter(|_| layout.is_none()),
    };
    Ok(Some(PartIntent {
        id: part.id,
        tenant: Tenant::from_db(&blob.tenant),
        blob_id: blob.id,
        number: part.number.cast_unsigned(),
        store: blob.backend,
        key: decode_key(&part.object_key)?,
        slot: Some(slot),
        layout,
        is_partial: false,
        resumed: part.size.unsigned_abs(),
    }))
}
