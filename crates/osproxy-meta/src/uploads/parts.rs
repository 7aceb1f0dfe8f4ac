//! Writes of parts. Each write has a row, which is committed before the bytes are written. At most
//! one row for each part number of a blob is in state `stored`.

use osproxy_storage::{Digests, Key, PartLayout};
use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, DatabaseTransaction, DbErr, EntityTrait, QueryFilter,
    QuerySelect, sea_query::Expr,
};

use crate::MetaError;
use crate::{
    FileState, NodeStores, PartSizeLimits, UploadDb,
    access::quotas::{ChargeOutcome, Quotas},
    blobs::{decode_digest, encode_digest},
    boxed_future,
    db::{
        entities::{file, part},
        write_batcher::TxEnd,
    },
    now_ms,
    uploads::{
        multipart::{self, MultipartSlot},
        receiving_blob::{FindBlobOutcome, ReceivingBlob, find_or_create},
    },
};

/// The write intent of a part. Its row is committed, so the caller can write the part.
#[derive(Clone, Debug)]
pub struct PartIntent {
    /// Id of the part's row.
    pub id: i64,
    /// The owner of the file.
    pub tenant: Tenant,
    /// The blob that collects the parts.
    pub blob_id: i64,
    /// Part number, from 1.
    pub number: u32,
    /// The store to write to.
    pub store: String,
    /// Key to write to. No other write uses this key.
    pub key: Key,
    /// Slot in the store's multipart upload. If set, the part is written into the slot and not to
    /// `key`.
    pub slot: Option<MultipartSlot>,
    /// How the content is divided into parts, if known in advance.
    pub layout: Option<PartLayout>,
    /// Whether the upload is partial.
    pub is_partial: bool,
    /// Bytes of the part that are in the slot already, because an earlier write was suspended.
    pub resumed: u64,
}

/// Outcome of [`UploadDb::begin_part`].
#[derive(Clone, Debug)]
pub enum BeginPartOutcome {
    /// The caller can write the part.
    Ready(PartIntent),
    /// The file is in this state and takes no parts.
    Closed(FileState),
    /// The parts of this upload go to the store with this name, which this node cannot access.
    OtherNode(String),
    /// The part does not fit the announced content.
    Mismatch(PartMismatch),
    /// The part would exceed the maximum size of the content.
    TooLarge,
    /// A concurrent write started first: try again.
    Conflict,
    /// No such uid.
    Unknown,
}

/// Why a part does not fit the announced content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartMismatch {
    /// The part number is too high: the content has this many parts.
    TooManyParts(u64),
    /// The part has the wrong size: it must have this many bytes.
    WrongSize(u64),
}

/// A part whose bytes have all been written.
#[derive(Clone, Debug)]
pub struct ReceivedPart {
    /// The computed digests.
    pub digests: Digests,
    /// MIME type detected from the first bytes.
    pub sniffed: Option<&'static str>,
    /// The store's tag of the part. Used only for a part of a multipart upload.
    pub tag: String,
    /// Maximum size of all parts together, in bytes, if the link limits it.
    pub max_size: Option<u64>,
    /// MIME type that the link requires for the content.
    pub content_type: Option<String>,
    /// Checksums that the client sent, in a format of the caller.
    pub checksums: Option<String>,
}

/// Outcome of [`UploadDb::finish_part`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishPartOutcome {
    /// The part is stored. Contains the row id of the earlier part that the new part replaces, if
    /// the caller must remove it.
    Stored(Option<i64>),
    /// The multipart upload already contains a part with this number and the same bytes. The caller
    /// discards the new write.
    Unchanged,
    /// The file does not take parts of this blob any more.
    Closed,
    /// The part would exceed the maximum size of the content.
    TooLarge,
    /// All parts together would exceed the announced size, in bytes.
    ExceedsAnnounced(u64),
    /// The part would exceed the tenant's quota.
    OverQuota,
    /// The sweep removed the write intent: the write took too long.
    Swept,
}

impl UploadDb {
    /// Starts a write of a part: records a write intent with the unused id `id`. If `size` is
    /// known, the part can get a slot in the store's multipart upload. Returns `TooLarge` if all
    /// parts together would exceed `max_size` bytes.
    ///
    /// There is one exception: if no total size was announced and the part may replace an earlier
    /// part, only [`finish_part`](Self::finish_part) checks this limit.
    #[boxed_future]
    pub async fn begin_part(
        &self,
        uid: Uid,
        number: u32,
        id: Uid,
        size: Option<u64>,
        max_size: Option<u64>,
    ) -> Result<BeginPartOutcome, MetaError> {
        self.begin_write(NewPart { uid, number, id: id.get(), size, max_size, is_prefix: false }).await
    }

    /// Like [`begin_part`](Self::begin_part), for an object that receives only the first bytes of
    /// the part. The caller writes it and calls [`suspend_part`](Self::suspend_part).
    #[boxed_future]
    pub async fn begin_prefix(
        &self,
        uid: Uid,
        number: u32,
        id: Uid,
        max_size: Option<u64>,
    ) -> Result<BeginPartOutcome, MetaError> {
        self.begin_write(NewPart { uid, number, id: id.get(), size: None, max_size, is_prefix: true }).await
    }

    async fn begin_write(&self, part: NewPart) -> Result<BeginPartOutcome, MetaError> {
        let node_stores = self.db.node_stores.clone();
        let outcome = self
            .db
            .write_or_rollback(move |transaction| {
                let node_stores = node_stores.clone();
                Box::pin(async move {
                    Ok(match begin(transaction, part, &node_stores).await? {
                        ready @ BeginPartOutcome::Ready(_) => TxEnd::Commit(ready),
                        other => TxEnd::Rollback(other),
                    })
                })
            })
            .await;
        match outcome {
            Err(MetaError::Conflict(_)) => Ok(BeginPartOutcome::Conflict),
            outcome => outcome,
        }
    }

    /// Records the part of `intent` as stored. Its bytes must be published and durable. Replaces an
    /// earlier part with the same number.
    #[boxed_future]
    pub async fn finish_part(
        &self,
        uid: Uid,
        intent: &PartIntent,
        part: ReceivedPart,
    ) -> Result<FinishPartOutcome, MetaError> {
        let (id, blob_id, number) = (intent.id, intent.blob_id, intent.number);
        let (is_multipart, resumed) = (intent.slot.is_some(), intent.resumed.cast_signed());
        let quotas = self.db.quotas.clone();
        self.db
            .write_or_rollback(move |transaction| {
                let (part, quotas) = (part.clone(), quotas.clone());
                Box::pin(async move {
                    let ReceivedPart { digests, sniffed, tag, max_size, content_type, checksums } = part;
                    let tag = is_multipart.then_some(tag);
                    let Some(receiving) = lock_receiving(transaction, uid, blob_id).await? else {
                        return Ok(TxEnd::Rollback(FinishPartOutcome::Closed));
                    };
                    let (replaced, replaced_bytes) =
                        match replace_part(transaction, blob_id, number, id, Some(&digests)).await? {
                            ReplacedPart::Unchanged => {
                                return Ok(TxEnd::Rollback(FinishPartOutcome::Unchanged));
                            }
                            ReplacedPart::Part { id, size, is_written } => {
                                (Some(id).filter(|_| !is_written), size)
                            }
                            ReplacedPart::Nothing => (None, 0),
                        };
                    let stored = part::Entity::update_many()
                        .col_expr(part::Column::State, Expr::value(part::State::Stored))
                        .col_expr(part::Column::Size, Expr::value(digests.size.cast_signed()))
                        .col_expr(part::Column::Md5, Expr::value(encode_digest(digests.md5)))
                        .col_expr(part::Column::Piece, Expr::value(digests.blake3.to_vec()))
                        .col_expr(part::Column::Sniffed, Expr::value(sniffed))
                        .col_expr(part::Column::Tag, Expr::value(tag))
                        .col_expr(part::Column::StoredAt, Expr::value(now_ms()))
                        .col_expr(part::Column::Checksums, Expr::value(checksums))
                        .filter(part::Column::Id.eq(id))
                        .filter(part::Column::State.eq(part::State::Writing))
                        .exec(transaction)
                        .await?;
                    if stored.rows_affected == 0 {
                        return Ok(TxEnd::Rollback(FinishPartOutcome::Swept));
                    }
                    let added_bytes = digests.size.cast_signed() - replaced_bytes - resumed;
                    if added_bytes > 0
                        && max_size.is_some_and(|max| receiving.received + added_bytes > saturating_i64(max))
                    {
                        return Ok(TxEnd::Rollback(FinishPartOutcome::TooLarge));
                    }
                    if let Some(announced) = receiving.exceeded_size(added_bytes) {
                        return Ok(TxEnd::Rollback(FinishPartOutcome::ExceedsAnnounced(announced)));
                    }
                    let charged =
                        add_received(transaction, uid, receiving, added_bytes, content_type, &quotas).await?;
                    Ok(charged.commit_or_roll_back(
                        FinishPartOutcome::Stored(replaced),
                        FinishPartOutcome::OverQuota,
                    ))
                })
            })
            .await
    }
}

/// A write of a part that begins.
#[derive(Clone, Copy)]
struct NewPart {
    uid: Uid,
    number: u32,
    /// Id of the new row.
    id: i64,
    size: Option<u64>,
    max_size: Option<u64>,
    /// Whether the write stores only the first bytes of the part, as a separate object.
    is_prefix: bool,
}

async fn begin(
    transaction: &DatabaseTransaction,
    NewPart { uid, number, id, size, max_size, is_prefix }: NewPart,
    node_stores: &NodeStores,
) -> Result<BeginPartOutcome, DbErr> {
    let receiving = match find_or_create(transaction, uid, number, id, node_stores).await? {
        FindBlobOutcome::Found(blob) => blob,
        FindBlobOutcome::Refused(outcome) => return Ok(outcome),
    };
    let ReceivingBlob {
        tenant,
        name,
        blob_id,
        store,
        earlier_write,
        part_layout: layout,
        is_partial,
        slot_size: recorded_slot_size,
        received,
    } = receiving;
    let size = match size_in_layout(layout, number, size) {
        Ok(size) => size,
        Err(mismatch) => return Ok(BeginPartOutcome::Mismatch(mismatch)),
    };
    // If the part may replace an earlier part, only `finish_part` knows how much the total size
    // changes, and checks the limit.
    let total = match layout {
        Some(layout) => layout.size,
        None if earlier_write.is_some() => 0,
        None => received.saturating_add(size.unwrap_or(0)),
    };
    if max_size.is_some_and(|max| total > max) {
        return Ok(BeginPartOutcome::TooLarge);
    }
    let is_separate = is_prefix || is_partial;
    let mut sizes = node_stores.store(&store).and_then(|store| store.part_sizes).filter(|_| !is_separate);
    let mut slot_size = None;
    if let (None, Some(PartSizeLimits { preallocated: true, .. })) = (layout, sizes) {
        slot_size =
            multipart::choose_slot_size(transaction, blob_id, recorded_slot_size, size.unwrap_or(0)).await?;
        let max_start = node_stores.max_slot_start;
        sizes = slot_size.and_then(|slot_size| multipart::limits_of_slots(number, slot_size, max_start));
    }
    let slot = match (size, sizes) {
        (Some(size), Some(sizes)) => {
            let slot = multipart::claim_slot(
                transaction,
                node_stores.whole_key(&store, &name, blob_id),
                blob_id,
                number,
                size,
                sizes,
            )
            .await?;
            slot.map(|slot| MultipartSlot { layout, slot_size, ..slot })
        }
        _ => None,
    };
    // If another node begins the same part concurrently, the unique key makes one of the two
    // inserts fail, and `begin_part` returns `Conflict`.
    let key = node_stores.part_key(&store, &name, blob_id, number, earlier_write.map(|_| id));
    let row = part::ActiveModel {
        id: Set(id),
        blob_id: Set(blob_id),
        number: Set(number.cast_signed()),
        state: Set(part::State::Writing),
        object_key: Set(key.to_string()),
        size: Set(0),
        md5: Set(None),
        sniffed: Set(None),
        created_at: Set(node_stores.clock.now_ms()),
        written_by: Set(Some(node_stores.node.clone())),
        tag: Set(slot.as_ref().map(|_| String::new())),
        piece: Set(None),
        stored_at: Set(None),
        checksums: Set(None),
    };
    part::Entity::insert(row).exec_without_returning(transaction).await?;
    let tenant = Tenant::from_db(&tenant);
    let intent = PartIntent { id, tenant, blob_id, number, store, key, slot, layout, is_partial, resumed: 0 };
    Ok(BeginPartOutcome::Ready(intent))
}

/// Returns the size of a part, if known. Fails if the part does not fit the announced content.
fn size_in_layout(
    layout: Option<PartLayout>,
    number: u32,
    size: Option<u64>,
) -> Result<Option<u64>, PartMismatch> {
    let Some(layout) = layout else {
        return Ok(size);
    };
    let range = layout.range(number).ok_or(PartMismatch::TooManyParts(layout.parts()))?;
    let expected = range.end - range.start;
    if size.is_some_and(|size| size != expected) {
        return Err(PartMismatch::WrongSize(expected));
    }
    Ok(Some(expected))
}

/// A file that takes parts; the transaction has locked its row.
pub(super) struct ReceivingFile {
    tenant: String,
    /// Bytes charged to the tenant for the content.
    charged: i64,
    /// Bytes received, in stored and incomplete parts.
    pub(super) received: i64,
    /// MIME type that the content must have.
    required_type: Option<String>,
    /// The announced size, if any, in bytes.
    announced_size: Option<i64>,
    /// Whether the tenant is charged for the announced size instead of the received bytes.
    is_charged: bool,
}

impl ReceivingFile {
    /// Returns the announced size if the received bytes and `added_bytes` exceed it.
    pub(super) fn exceeded_size(&self, added_bytes: i64) -> Option<u64> {
        let exceeds = |announced: &i64| added_bytes > 0 && self.received + added_bytes > *announced;
        self.announced_size.filter(exceeds).map(i64::unsigned_abs)
    }
}

/// Locks the file's row until the end of the transaction, so that the upload cannot be completed
/// meanwhile. Returns `None` if the file does not take parts of this blob any more.
pub(super) async fn lock_receiving(
    transaction: &DatabaseTransaction,
    uid: Uid,
    blob_id: i64,
) -> Result<Option<ReceivingFile>, DbErr> {
    let row = file::Entity::find_by_id(uid.get())
        .select_only()
        .columns([file::Column::Tenant, file::Column::Charged, file::Column::Received])
        .columns([file::Column::RequiredType, file::Column::AnnouncedSize, file::Column::PartSize])
        .filter(file::Column::State.is_in([FileState::Receiving, FileState::Partial]))
        .filter(file::Column::BlobId.eq(blob_id))
        .lock_exclusive();
    let row = row.into_tuple::<ReceivingRow>().one(transaction).await?;
    Ok(row.map(|(tenant, charged, received, required_type, announced_size, part_size)| ReceivingFile {
        tenant,
        charged,
        received,
        required_type,
        announced_size,
        // A size that was announced during the upload is charged when the bytes arrive.
        is_charged: announced_size.is_some() && part_size.is_some(),
    }))
}

/// Tenant, charged bytes, received bytes, required type, announced size and part size of a file.
type ReceivingRow = (String, i64, i64, Option<String>, Option<i64>, Option<i64>);

/// Adds `added_bytes`, which can be negative, to the received bytes of a file. Charges the tenant
/// for these bytes, unless the tenant is already charged for the announced size. Records the
/// required `content_type`, if any.
pub(super) async fn add_received(
    transaction: &DatabaseTransaction,
    uid: Uid,
    receiving: ReceivingFile,
    added_bytes: i64,
    content_type: Option<String>,
    quotas: &Quotas,
) -> Result<ChargeOutcome, DbErr> {
    let ReceivingFile { tenant, charged, received, required_type, is_charged, .. } = receiving;
    let charged_bytes = if is_charged { 0 } else { added_bytes };
    let required_type = content_type.filter(|types| is_single(types)).or(required_type);
    file::Entity::update_many()
        .col_expr(file::Column::Received, Expr::value(received + added_bytes))
        .col_expr(file::Column::Charged, Expr::value(charged + charged_bytes))
        .col_expr(file::Column::RequiredType, Expr::value(required_type))
        .filter(file::Column::Uid.eq(uid.get()))
        .exec(transaction)
        .await?;
    quotas.charge(transaction, &tenant, charged_bytes).await
}

/// Whether a link requires one MIME type or family. Links that accept several have them from an upload
/// grant, which is recorded with the file.
pub(super) fn is_single(types: &str) -> bool {
    !types.contains(',')
}

fn saturating_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The bytes that were received for a part number before.
pub(super) enum ReplacedPart {
    Nothing,
    /// A part with the same bytes in the store's multipart upload. It is kept.
    Unchanged,
    /// A part that is now marked for deletion.
    Part {
        id: i64,
        /// Size in bytes.
        size: i64,
        /// Whether a write continues the part. Its write guard, or the sweep, removes the part.
        is_written: bool,
    },
}

/// Marks what was received of part `number` before for deletion: a stored part, or the first bytes
/// of a part. Keeps a stored part in a multipart upload if its digests are `digests`. `id` is the
/// row of the new part.
pub(super) async fn replace_part(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    number: u32,
    id: i64,
    digests: Option<&Digests>,
) -> Result<ReplacedPart, DbErr> {
    let earlier = part::Entity::find()
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::Number.eq(number.cast_signed()))
        .filter(part::Column::Id.ne(id))
        .filter(counts_as_received())
        .one(transaction)
        .await?;
    let Some(earlier) = earlier else {
        return Ok(ReplacedPart::Nothing);
    };
    let is_same = digests.is_some_and(|digests| match &earlier.piece {
        Some(piece) => *piece == digests.blake3,
        // Rows of older versions have only the MD5.
        None => earlier.md5.is_some() && decode_digest(earlier.md5.as_ref()) == digests.md5,
    });
    if earlier.state == part::State::Stored && earlier.tag.is_some() && is_same {
        return Ok(ReplacedPart::Unchanged);
    }
    part::Entity::update_many()
        .col_expr(part::Column::State, Expr::value(part::State::Deleting))
        .filter(part::Column::Id.eq(earlier.id))
        .exec(transaction)
        .await?;
    let is_written = earlier.state == part::State::Writing;
    Ok(ReplacedPart::Part { id: earlier.id, size: earlier.size, is_written })
}

/// Filter: rows whose bytes count as received. For each part number, there is at most one.
pub(super) fn counts_as_received() -> Condition {
    let resumed =
        Condition::all().add(part::Column::State.eq(part::State::Writing)).add(part::Column::Size.gt(0));
    Condition::any().add(part::Column::State.is_in([part::State::Partial, part::State::Stored])).add(resumed)
}
