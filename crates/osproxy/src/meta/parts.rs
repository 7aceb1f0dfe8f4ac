use std::ops::Range;

use osproxy_storage::{Digests, Key, Shape};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, SqlErr, sea_query::Expr,
};

use super::{
    FileState, Fingerprint, Here, Meta,
    blobs::{recorded_digest, to_record},
    collecting::{Collecting, collect},
    entities::{blob, file, part},
    files::{recorded_key, shape},
    native::{self, NativePlace},
    now_ms,
    quotas::{Charged, Quotas},
    write_queue::Verdict,
};
use crate::{tenant::Tenant, uid::Uid};

/// How many rows are named in one statement.
pub(super) const CHUNK: usize = 500;

/// A part that may be written now: its row is committed.
#[derive(Clone, Debug)]
pub struct PartIntent {
    /// The attempt's number.
    pub id: i64,
    /// The file's owner.
    pub tenant: Tenant,
    /// The blob that the part will be a piece of.
    pub blob_id: i64,
    /// Its place among the pieces.
    pub number: u32,
    /// The store to write to.
    pub store: String,
    /// Where to write there; no other attempt writes there.
    pub key: Key,
    /// Where to write instead: into the store's own upload.
    pub native: Option<NativePlace>,
    /// How the content is divided, if that was settled before.
    pub shape: Option<Shape>,
}

/// What became of the wish to send a part.
#[derive(Clone, Debug)]
pub enum BegunPart {
    /// Go on.
    Ready(PartIntent),
    /// The file takes no parts: it is in this state.
    Closed(FileState),
    /// The parts that came before lie in this store, which is another node's.
    Elsewhere(String),
    /// There is no such part of the content as it was announced.
    Misfit(Misfit),
    /// With it, the content would have more bytes than it may have.
    TooLarge,
    /// Another part was first to begin the upload: ask again.
    Changed,
    /// No such uid.
    Unknown,
}

/// Why something is no part of content that was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// There are only so many parts.
    Number(u64),
    /// The part has so many bytes.
    Size(u64),
}

/// A part that was written.
#[derive(Clone, Debug)]
pub struct ReceivedPart {
    /// What osproxy computed of it.
    pub digests: Digests,
    /// MIME type that its first bytes speak of.
    pub sniffed: Option<&'static str>,
    /// What the store has called it.
    pub tag: String,
    /// The most bytes that all parts may have together, if the link says so.
    pub max_size: Option<u64>,
    /// MIME type that the link demands of the content.
    pub content_type: Option<String>,
}

/// What became of a part that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishedPart {
    /// It counts. The attempt that it replaces, if there was one, is to be discarded.
    Stored(Option<i64>),
    /// It is what was there before, byte for byte: that stays, and the attempt is to be discarded.
    Same,
    /// The file no longer takes parts.
    Closed,
    /// With it, the content would have more bytes than it may have.
    TooLarge,
    /// The tenant's quota has not so much left.
    OverQuota,
    /// The intent was swept away: the attempt took too long to finish.
    Swept,
}

/// A part that counts.
#[derive(Clone, Debug)]
pub struct StoredPart {
    /// The number of the attempt that sent it.
    pub id: i64,
    /// Its place among the pieces, from 1 on.
    pub number: u32,
    /// The object that it lies in.
    pub key: Key,
    /// Where in that object its first byte lies: an object that the store put together has several parts.
    pub offset: u64,
    /// Whether the object is this part and nothing else.
    pub is_object: bool,
    /// Bytes.
    pub size: u64,
    /// What osproxy computed of it when it came.
    pub known: Fingerprint,
}

impl StoredPart {
    /// Where in its object it lies.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.size
    }
}

impl Meta {
    /// Begins an attempt to send a part. Records what will be written, under `attempt`, a number that nobody has. With
    /// its `size`, if that is known, it may get a place in the store's own upload. All parts together must have at most
    /// `max_size` bytes.
    pub async fn begin_part(
        &self,
        uid: Uid,
        number: u32,
        attempt: Uid,
        size: Option<u64>,
        max_size: Option<u64>,
    ) -> Result<BegunPart, DbErr> {
        let here = self.here.clone();
        let begun = self
            .write_or_undo(move |transaction| {
                let here = here.clone();
                Box::pin(async move {
                    Ok(match begin(transaction, uid, number, attempt.get(), size, max_size, &here).await? {
                        ready @ BegunPart::Ready(_) => Verdict::Commit(ready),
                        other => Verdict::Rollback(other),
                    })
                })
            })
            .await;
        match begun {
            Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
                Ok(BegunPart::Changed)
            }
            begun => begun,
        }
    }

    /// Makes the object of `intent`, published and durable, the part of its number.
    pub async fn finish_part(
        &self,
        uid: Uid,
        intent: &PartIntent,
        part: ReceivedPart,
    ) -> Result<FinishedPart, DbErr> {
        let (id, blob_id, number) = (intent.id, intent.blob_id, intent.number);
        let is_native = intent.native.is_some();
        let quotas = self.quotas.clone();
        self.write_or_undo(move |transaction| {
            let (part, quotas) = (part.clone(), quotas.clone());
            Box::pin(async move {
                let ReceivedPart { digests, sniffed, tag, max_size, content_type } = part;
                let tag = is_native.then_some(tag);
                let Some(receiving) = still_receiving(transaction, uid, blob_id).await? else {
                    return Ok(Verdict::Rollback(FinishedPart::Closed));
                };
                let (replaced, before) = match replace(transaction, blob_id, number, &digests).await? {
                    Replaced::Same => return Ok(Verdict::Rollback(FinishedPart::Same)),
                    Replaced::Part(id, size) => (Some(id), size),
                    Replaced::Nothing => (None, 0),
                };
                let stored = part::Entity::update_many()
                    .col_expr(part::Column::State, Expr::value(part::State::Stored))
                    .col_expr(part::Column::Size, Expr::value(digests.size.cast_signed()))
                    .col_expr(part::Column::Md5, Expr::value(to_record(digests.md5)))
                    .col_expr(part::Column::Piece, Expr::value(digests.blake3.to_vec()))
                    .col_expr(part::Column::Sniffed, Expr::value(sniffed))
                    .col_expr(part::Column::Tag, Expr::value(tag))
                    .col_expr(part::Column::StoredAt, Expr::value(now_ms()))
                    .filter(part::Column::Id.eq(id))
                    .filter(part::Column::State.eq(part::State::Writing))
                    .exec(transaction)
                    .await?;
                if stored.rows_affected == 0 {
                    return Ok(Verdict::Rollback(FinishedPart::Swept));
                }
                let change = digests.size.cast_signed() - before;
                if change > 0 && max_size.is_some_and(|max| receiving.received + change > as_recorded(max)) {
                    return Ok(Verdict::Rollback(FinishedPart::TooLarge));
                }
                let charged = count(transaction, uid, receiving, change, content_type, &quotas).await?;
                Ok(charged.commit_or(FinishedPart::Stored(replaced), FinishedPart::OverQuota))
            })
        })
        .await
    }

    /// The numbers of the parts of a blob that count, and the keys of those that are objects.
    pub async fn part_objects(&self, blob_id: i64) -> Result<Vec<(i64, Option<Key>)>, DbErr> {
        let rows = part::Entity::find()
            .filter(part::Column::BlobId.eq(blob_id))
            .filter(part::Column::State.eq(part::State::Stored))
            .all(&self.reader)
            .await?;
        rows.iter().map(|part| Ok((part.id, own_object(part)?))).collect()
    }

    /// The parts of a blob, in their order; none, if they are being removed.
    pub async fn parts(&self, blob_id: i64) -> Result<Vec<StoredPart>, DbErr> {
        let rows = part::Entity::find()
            .filter(part::Column::BlobId.eq(blob_id))
            .filter(part::Column::State.eq(part::State::Stored))
            .order_by_asc(part::Column::Number)
            .all(&self.reader)
            .await?;
        let (mut object, mut divided) = (None, None);
        if rows.iter().any(|part| part.tag.is_some() || part.piece.is_some())
            && let Some(blob) = blob::Entity::find_by_id(blob_id).one(&self.reader).await?
        {
            divided = shape(Some(blob.size), blob.part_size);
            // After a merge the blob lies in another object.
            if blob.upload_id.is_some() {
                object = Some((recorded_key(&blob.object_key)?, self.has_places(&blob.backend)));
            }
        }
        let (mut parts, mut offset) = (Vec::with_capacity(rows.len()), 0);
        for row in &rows {
            let mut part = stored(row, divided)?;
            let place = divided.and_then(|divided| divided.range(part.number)).map(|range| range.start);
            if row.tag.is_some() {
                let Some((object, has_places)) = &object else {
                    return Ok(Vec::new());
                };
                let within = place.filter(|_| *has_places).unwrap_or(offset);
                (part.key, part.offset, part.is_object) = (object.clone(), within, false);
                offset += part.size;
            }
            parts.push(part);
        }
        Ok(parts)
    }

    /// Whether the parts of a store's uploads have places of their own in the object: then one that is missing is a hole.
    fn has_places(&self, store: &str) -> bool {
        self.here.store(store).and_then(|store| store.parts).is_some_and(|sizes| sizes.placed)
    }

    /// Removes the rows of parts whose objects are gone.
    pub async fn forget_parts(&self, ids: Vec<i64>) -> Result<(), DbErr> {
        self.write(move |transaction| {
            let ids = ids.clone();
            Box::pin(async move {
                for ids in ids.chunks(CHUNK) {
                    let ids = ids.iter().copied();
                    part::Entity::delete_many().filter(part::Column::Id.is_in(ids)).exec(transaction).await?;
                }
                Ok(())
            })
        })
        .await
    }
}

/// The key of the object that a part is, if it is one.
pub(super) fn own_object(row: &part::Model) -> Result<Option<Key>, DbErr> {
    row.tag.is_none().then(|| recorded_key(&row.object_key)).transpose()
}

fn stored(row: &part::Model, divided: Option<Shape>) -> Result<StoredPart, DbErr> {
    let damaged = || DbErr::Custom(format!("part {} is stored without size or digest", row.id));
    if row.md5.is_none() && row.piece.is_none() {
        return Err(damaged());
    }
    Ok(StoredPart {
        id: row.id,
        number: row.number.cast_unsigned(),
        key: recorded_key(&row.object_key)?,
        offset: 0,
        is_object: true,
        size: u64::try_from(row.size).map_err(|_| damaged())?,
        known: Fingerprint::of(row, divided),
    })
}

async fn begin(
    transaction: &DatabaseTransaction,
    uid: Uid,
    number: u32,
    attempt: i64,
    size: Option<u64>,
    max_size: Option<u64>,
    here: &Here,
) -> Result<BegunPart, DbErr> {
    let collecting = match collect(transaction, uid, number, attempt, here).await? {
        Ok(collecting) => collecting,
        Err(otherwise) => return Ok(otherwise),
    };
    let Collecting { tenant, name, blob_id, store, another, shape, received } = collecting;
    let size = match fit(shape, number, size) {
        Ok(size) => size,
        Err(misfit) => return Ok(BegunPart::Misfit(misfit)),
    };
    // What replaces another part is judged once it has come.
    let total = match shape {
        Some(shape) => shape.size,
        None if another.is_some() => 0,
        None => received.saturating_add(size.unwrap_or(0)),
    };
    if max_size.is_some_and(|max| total > max) {
        return Ok(BegunPart::TooLarge);
    }
    let sizes = here.store(&store).and_then(|store| store.parts);
    let native = match (size, sizes.filter(|sizes| shape.is_some() || !sizes.placed)) {
        (Some(size), Some(sizes)) => {
            let place = native::claim(
                transaction,
                here.whole_key(&store, &name, blob_id),
                blob_id,
                number,
                size,
                sizes,
            )
            .await?;
            place.map(|place| NativePlace { shape, ..place })
        }
        _ => None,
    };
    // Should another node begin the same part at this moment, the key is unique: one of them asks again.
    let key = here.part_key(&store, &name, blob_id, number, another.map(|_| attempt));
    let row = part::ActiveModel {
        id: Set(attempt),
        blob_id: Set(blob_id),
        number: Set(number.cast_signed()),
        state: Set(part::State::Writing),
        object_key: Set(key.to_string()),
        size: Set(0),
        md5: Set(None),
        sniffed: Set(None),
        created_at: Set(here.clock.now_ms()),
        written_by: Set(Some(here.node.clone())),
        tag: Set(native.as_ref().map(|_| String::new())),
        piece: Set(None),
        stored_at: Set(None),
    };
    part::Entity::insert(row).exec_without_returning(transaction).await?;
    let tenant = Tenant::from_recorded(&tenant);
    Ok(BegunPart::Ready(PartIntent { id: attempt, tenant, blob_id, number, store, key, native, shape }))
}

/// How many bytes a part has, if that is known, of content that was divided before or was not.
fn fit(shape: Option<Shape>, number: u32, size: Option<u64>) -> Result<Option<u64>, Misfit> {
    let Some(shape) = shape else {
        return Ok(size);
    };
    let range = shape.range(number).ok_or(Misfit::Number(shape.parts()))?;
    let expected = range.end - range.start;
    if size.is_some_and(|size| size != expected) {
        return Err(Misfit::Size(expected));
    }
    Ok(Some(expected))
}

/// A file that takes parts, whose row is taken.
struct Receiving {
    tenant: String,
    /// What it is charged with.
    charged: i64,
    /// Bytes of its parts.
    received: i64,
    /// MIME type that its content must have.
    required_type: Option<String>,
    /// It is charged with what was announced, not with what came.
    is_announced: bool,
}

/// Takes the row of the file until the end, so that it is not completed meanwhile; `None`: it does not take parts of this
/// blob any more.
async fn still_receiving(
    transaction: &DatabaseTransaction,
    uid: Uid,
    blob_id: i64,
) -> Result<Option<Receiving>, DbErr> {
    let taken = file::Entity::find_by_id(uid.get())
        .select_only()
        .columns([file::Column::Tenant, file::Column::Charged, file::Column::Received])
        .columns([file::Column::RequiredType, file::Column::AnnouncedSize])
        .filter(file::Column::State.eq(FileState::Receiving))
        .filter(file::Column::BlobId.eq(blob_id))
        .lock_exclusive();
    let taken = taken.into_tuple::<ReceivingRow>().one(transaction).await?;
    Ok(taken.map(|(tenant, charged, received, required_type, announced)| Receiving {
        tenant,
        charged,
        received,
        required_type,
        is_announced: announced.is_some(),
    }))
}

/// Tenant, charged bytes, received bytes, required type and announced size of a file.
type ReceivingRow = (String, i64, i64, Option<String>, Option<i64>);

/// Counts so many bytes more that came of a file, or fewer. Its tenant is charged with them, unless it is charged with what
/// was announced.
async fn count(
    transaction: &DatabaseTransaction,
    uid: Uid,
    receiving: Receiving,
    change: i64,
    content_type: Option<String>,
    quotas: &Quotas,
) -> Result<Charged, DbErr> {
    let Receiving { tenant, charged, received, required_type, is_announced } = receiving;
    let added = if is_announced { 0 } else { change };
    let required_type = content_type.or(required_type);
    file::Entity::update_many()
        .col_expr(file::Column::Received, Expr::value(received + change))
        .col_expr(file::Column::Charged, Expr::value(charged + added))
        .col_expr(file::Column::RequiredType, Expr::value(required_type))
        .filter(file::Column::Uid.eq(uid.get()))
        .exec(transaction)
        .await?;
    quotas.charge(transaction, &tenant, added).await
}

/// A number of bytes as the database has them.
fn as_recorded(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What counted so far under the number of a part.
enum Replaced {
    Nothing,
    /// The same bytes, where the store has them in its upload.
    Same,
    /// This part, which is condemned now.
    /// Its number and size.
    Part(i64, i64),
}

/// Condemns the part of this number that counted so far, if it is another one.
async fn replace(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    number: u32,
    digests: &Digests,
) -> Result<Replaced, DbErr> {
    let before = part::Entity::find()
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::Number.eq(number.cast_signed()))
        .filter(part::Column::State.eq(part::State::Stored))
        .one(transaction)
        .await?;
    let Some(before) = before else {
        return Ok(Replaced::Nothing);
    };
    // What was recorded by an older version has only the md5.
    let is_same = match &before.piece {
        Some(piece) => *piece == digests.blake3,
        None => before.md5.is_some() && recorded_digest(before.md5.as_ref()) == digests.md5,
    };
    if before.tag.is_some() && is_same {
        return Ok(Replaced::Same);
    }
    part::Entity::update_many()
        .col_expr(part::Column::State, Expr::value(part::State::Deleting))
        .filter(part::Column::Id.eq(before.id))
        .exec(transaction)
        .await?;
    Ok(Replaced::Part(before.id, before.size))
}
