use std::ops::Range;

use osproxy_storage::{Category, Digests, Key};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, FromQueryResult,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait, SqlErr, sea_query::Expr,
};

use super::{
    FileState, Here, Meta, blobs,
    entities::{blob, file, part},
    files::recorded_key,
    native::{self, NativePlace},
    now_ms,
    write_queue::Verdict,
};
use crate::uid::Uid;

/// How many rows are named in one statement.
const CHUNK: usize = 500;

/// A part that may be written now: its row is committed.
#[derive(Clone, Debug)]
pub struct PartIntent {
    /// The attempt's number.
    pub id: i64,
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
    /// Another part was first to begin the upload: ask again.
    Changed,
    /// No such uid.
    Unknown,
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
    /// Computed by osproxy.
    pub md5: [u8; 16],
}

impl StoredPart {
    /// Where in its object it lies.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.size
    }
}

/// What is there of an upload.
#[derive(Clone, Debug)]
pub struct UploadStatus {
    /// Where the file stands.
    pub state: FileState,
    /// The numbers of the parts that count, ascending.
    pub parts: Vec<u32>,
}

impl Meta {
    /// Begins an attempt to send a part. Records what will be written, under `attempt`, a number that nobody has. With
    /// its `size`, if that is known, it may get a place in the store's own upload.
    pub async fn begin_part(
        &self,
        uid: Uid,
        number: u32,
        attempt: Uid,
        size: Option<u64>,
    ) -> Result<BegunPart, DbErr> {
        let here = self.here.clone();
        let begun = self
            .write_or_undo(move |transaction| {
                let here = here.clone();
                Box::pin(async move {
                    Ok(match begin(transaction, uid, number, attempt.get(), size, &here).await? {
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

    /// Makes the object of `intent`, published and durable, the part of its number. `tag` is what the store has called it.
    pub async fn finish_part(
        &self,
        uid: Uid,
        intent: &PartIntent,
        digests: Digests,
        sniffed: Option<&'static str>,
        tag: String,
    ) -> Result<FinishedPart, DbErr> {
        let (id, blob_id, number) = (intent.id, intent.blob_id, intent.number);
        let tag = intent.native.is_some().then_some(tag);
        self.write_or_undo(move |transaction| {
            let tag = tag.clone();
            Box::pin(async move {
                if !still_receiving(transaction, uid, blob_id).await? {
                    return Ok(Verdict::Rollback(FinishedPart::Closed));
                }
                let replaced = match replace(transaction, blob_id, number, &digests).await? {
                    Replaced::Same => return Ok(Verdict::Rollback(FinishedPart::Same)),
                    Replaced::Part(id) => Some(id),
                    Replaced::Nothing => None,
                };
                let stored = part::Entity::update_many()
                    .col_expr(part::Column::State, Expr::value(part::State::Stored))
                    .col_expr(part::Column::Size, Expr::value(digests.size.cast_signed()))
                    .col_expr(part::Column::Md5, Expr::value(digests.md5.to_vec()))
                    .col_expr(part::Column::Sniffed, Expr::value(sniffed))
                    .col_expr(part::Column::Tag, Expr::value(tag))
                    .filter(part::Column::Id.eq(id))
                    .filter(part::Column::State.eq(part::State::Writing))
                    .exec(transaction)
                    .await?;
                Ok(match stored.rows_affected {
                    0 => Verdict::Rollback(FinishedPart::Swept),
                    _ => Verdict::Commit(FinishedPart::Stored(replaced)),
                })
            })
        })
        .await
    }

    /// Where an upload stands; `None` when the uid is unknown.
    pub async fn upload_status(&self, uid: Uid) -> Result<Option<UploadStatus>, DbErr> {
        let found =
            file::Entity::find_by_id(uid.get()).find_also_related(blob::Entity).one(&self.reader).await?;
        let Some((file, blob)) = found else {
            return Ok(None);
        };
        let mut parts = Vec::new();
        if let Some(blob) = blob {
            if blob.state == blob::State::Receiving {
                let numbers = part::Entity::find()
                    .select_only()
                    .column(part::Column::Number)
                    .filter(part::Column::BlobId.eq(blob.id))
                    .filter(part::Column::State.eq(part::State::Stored))
                    .order_by_asc(part::Column::Number);
                let numbers: Vec<i32> = numbers.into_tuple().all(&self.reader).await?;
                parts = numbers.into_iter().map(i32::cast_unsigned).collect();
            } else {
                parts.extend(1..=file.part_count.unwrap_or(0).cast_unsigned());
            }
        }
        Ok(Some(UploadStatus { state: file.state, parts }))
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
        let mut object = None;
        if rows.iter().any(|part| part.tag.is_some()) {
            // After a merge the blob lies in another object.
            let blob = blob::Entity::find_by_id(blob_id).filter(blob::Column::UploadId.is_not_null());
            let blob = blob.one(&self.reader).await?;
            object = blob.map(|blob| recorded_key(&blob.object_key)).transpose()?;
        }
        let (mut parts, mut offset) = (Vec::with_capacity(rows.len()), 0);
        for row in &rows {
            let mut part = stored(row)?;
            if row.tag.is_some() {
                let Some(object) = &object else {
                    return Ok(Vec::new());
                };
                (part.key, part.offset, part.is_object) = (object.clone(), offset, false);
                offset += part.size;
            }
            parts.push(part);
        }
        Ok(parts)
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

fn stored(row: &part::Model) -> Result<StoredPart, DbErr> {
    let damaged = || DbErr::Custom(format!("part {} is stored without size or digest", row.id));
    Ok(StoredPart {
        id: row.id,
        number: row.number.cast_unsigned(),
        key: recorded_key(&row.object_key)?,
        offset: 0,
        is_object: true,
        size: u64::try_from(row.size).map_err(|_| damaged())?,
        md5: row.md5.as_deref().and_then(|md5| md5.try_into().ok()).ok_or_else(damaged)?,
    })
}

/// What decides where a part goes.
#[derive(FromQueryResult)]
struct Destination {
    name: String,
    state: FileState,
    blob_id: Option<i64>,
    /// The store of the parts before.
    backend: Option<String>,
    /// Another attempt for this number.
    another: Option<i64>,
}

async fn begin(
    transaction: &DatabaseTransaction,
    uid: Uid,
    number: u32,
    attempt: i64,
    size: Option<u64>,
    here: &Here,
) -> Result<BegunPart, DbErr> {
    let collecting = match collect(transaction, uid, number, attempt, here).await? {
        Ok(collecting) => collecting,
        Err(otherwise) => return Ok(otherwise),
    };
    let Collecting { name, blob_id, store, another } = collecting;
    let native = match (size, here.store(&store).and_then(|store| store.parts)) {
        (Some(size), Some(sizes)) => native::claim(transaction, &name, blob_id, number, size, sizes).await?,
        _ => None,
    };
    // Should another node begin the same part at this moment, the key is unique: one of them asks again.
    let key = Key::part(Category::of_name(&name), blob_id, number, another.map(|_| attempt));
    let row = part::ActiveModel {
        id: Set(attempt),
        blob_id: Set(blob_id),
        number: Set(number.cast_signed()),
        state: Set(part::State::Writing),
        object_key: Set(key.to_string()),
        size: Set(0),
        md5: Set(None),
        sniffed: Set(None),
        created_at: Set(now_ms()),
        written_by: Set(Some(here.node.clone())),
        tag: Set(native.as_ref().map(|_| String::new())),
    };
    part::Entity::insert(row).exec_without_returning(transaction).await?;
    Ok(BegunPart::Ready(PartIntent { id: attempt, blob_id, number, store, key, native }))
}

/// The blob that collects the parts of a file.
pub(super) struct Collecting {
    name: String,
    blob_id: i64,
    /// Where it lies.
    pub(super) store: String,
    /// Another attempt for the number of the part.
    another: Option<i64>,
}

/// Finds the blob that collects the parts of a file, which is at hand here, for a part of this number; makes it under
/// `spare`, or the uid's own number, if there is none yet. Else says what becomes of the part.
pub(super) async fn collect(
    transaction: &DatabaseTransaction,
    uid: Uid,
    number: u32,
    spare: i64,
    here: &Here,
) -> Result<Result<Collecting, BegunPart>, DbErr> {
    // Another attempt for this number, if there is one.
    let another = part::Entity::find()
        .select_only()
        .column(part::Column::Id)
        .filter(Expr::col((part::Entity, part::Column::BlobId)).equals((file::Entity, file::Column::BlobId)))
        .filter(part::Column::Number.eq(number.cast_signed()))
        .limit(1)
        .into_query();
    let found = file::Entity::find_by_id(uid.get())
        .left_join(blob::Entity)
        .select_only()
        .columns([file::Column::Name, file::Column::State, file::Column::BlobId])
        .column(blob::Column::Backend)
        .column_as(Expr::SubQuery(None, Box::new(another.into())), "another");
    let found: Option<Destination> = found.into_model().one(transaction).await?;
    let Some(Destination { name, state, blob_id, backend, another }) = found else {
        return Ok(Err(BegunPart::Unknown));
    };
    if let (file::State::Receiving, Some(there)) = (state, &backend)
        && here.store(there).is_none()
    {
        return Ok(Err(BegunPart::Elsewhere(there.clone())));
    }
    let store = backend.unwrap_or_else(|| here.for_new().to_owned());
    let known = blob_id;
    if known.is_none() && !begin_receiving(transaction, uid, state).await? {
        return Ok(Err(BegunPart::Changed));
    }
    let blob_id = match (state, blob_id) {
        (file::State::Receiving, Some(blob_id)) => blob_id,
        // An attempt to send it in one piece may have taken the uid's own number.
        (file::State::Receiving, None) => spare,
        (file::State::Pending, _) => uid.get(),
        (closed, _) => return Ok(Err(BegunPart::Closed(closed))),
    };
    if known.is_none() {
        blob::Entity::insert(receiving_blob(blob_id, &store, &here.node))
            .exec_without_returning(transaction)
            .await?;
        file::Entity::update_many()
            .col_expr(file::Column::BlobId, Expr::value(blob_id))
            .filter(file::Column::Uid.eq(uid.get()))
            .exec(transaction)
            .await?;
    }
    Ok(Ok(Collecting { name, blob_id, store, another }))
}

/// Takes the row of a file in this state for the rest of the transaction. `false`: it is in another one now.
async fn begin_receiving(
    transaction: &DatabaseTransaction,
    uid: Uid,
    state: FileState,
) -> Result<bool, DbErr> {
    let taken = file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(file::State::Receiving))
        .filter(file::Column::Uid.eq(uid.get()))
        .filter(file::Column::State.eq(state))
        .filter(file::Column::BlobId.is_null())
        .exec(transaction)
        .await?;
    Ok(taken.rows_affected == 1)
}

fn receiving_blob(id: i64, store: &str, node: &str) -> blob::ActiveModel {
    blob::ActiveModel {
        state: Set(blob::State::Receiving),
        layout: Set(blob::Layout::Parts),
        ..blobs::writing_row(id, store, String::new(), node)
    }
}

/// Whether parts of a file still count. Until the transaction ends, that stays so: its row is taken.
async fn still_receiving(transaction: &DatabaseTransaction, uid: Uid, blob_id: i64) -> Result<bool, DbErr> {
    let taken = file::Entity::find_by_id(uid.get())
        .select_only()
        .columns([file::Column::State, file::Column::BlobId])
        .lock_exclusive();
    let taken: Option<(FileState, Option<i64>)> = taken.into_tuple().one(transaction).await?;
    Ok(taken == Some((FileState::Receiving, Some(blob_id))))
}

/// What counted so far under the number of a part.
enum Replaced {
    Nothing,
    /// The same bytes, where the store has them in its upload.
    Same,
    /// This part, which is condemned now.
    Part(i64),
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
    if before.tag.is_some() && before.md5.as_deref() == Some(&digests.md5) {
        return Ok(Replaced::Same);
    }
    part::Entity::update_many()
        .col_expr(part::Column::State, Expr::value(part::State::Deleting))
        .filter(part::Column::Id.eq(before.id))
        .exec(transaction)
        .await?;
    Ok(Replaced::Part(before.id))
}
