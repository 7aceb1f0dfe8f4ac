use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, sea_query::Expr,
};

use super::{
    FileState, Meta, TaskForBlob, dialect,
    entities::{blob, file, part},
    now_ms, tasks,
    write_queue::Verdict,
};
use crate::{content_type, uid::Uid};

use super::native::{self, NativeUpload};

/// How many of the parts that are missing are named.
const NAMED: usize = 10;
/// What a client says of an upload that it declares complete.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// How many parts there are.
    pub parts: u32,
    /// How many bytes they have together.
    pub size: u64,
    /// MD5 of all of them together.
    pub md5: Option<[u8; 16]>,
}

/// What became of the wish to complete an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completed {
    /// The file can be read now.
    Now,
    /// Not yet: first the store is to complete this upload, then [`Meta::finish_completion`] makes the file. Nothing
    /// changes about the parts meanwhile.
    Native(NativeUpload),
    /// It was complete already, of what the client says.
    Before,
    /// It was complete already, of something else.
    Otherwise,
    /// It was complete already, and whether of what the client says is not known before it is merged.
    Unverified,
    /// Other parts are there than 1 to the number that the client says: so many, and these are missing.
    Parts(u64, Vec<u32>),
    /// The parts have so many bytes together.
    Size(u64),
    /// There is nothing to complete: the file is in this state.
    Closed(FileState),
    /// No such uid.
    Unknown,
}

impl Meta {
    /// Makes a file of the parts that are there, if they are those that the client says, and enqueues `merge`, which
    /// gets the blob's number. However many parts there are, it takes the same few statements.
    pub async fn complete_upload(
        &self,
        uid: Uid,
        said: Completion,
        merge: TaskForBlob,
    ) -> Result<Completed, DbErr> {
        let now = self.clock.now_ms();
        self.write_or_undo(move |transaction| {
            let merge = merge.clone();
            Box::pin(async move {
                Ok(match complete(transaction, uid, said, &merge, now).await? {
                    begun @ (Completed::Now | Completed::Native(_)) => Verdict::Commit(begun),
                    other => Verdict::Rollback(other),
                })
            })
        })
        .await
    }

    /// Uploads that a store is to complete, up to `limit` of them.
    pub async fn completing(&self, store: &str, limit: u64) -> Result<Vec<(Uid, NativeUpload)>, DbErr> {
        let files = file::Entity::find()
            .inner_join(blob::Entity)
            .select_only()
            .column(file::Column::Uid)
            .filter(file::Column::State.eq(file::State::Completing))
            .filter(blob::Column::Backend.eq(store))
            .limit(limit);
        let uids: Vec<i64> = files.into_tuple().all(&self.reader).await?;
        let mut found = Vec::with_capacity(uids.len());
        for uid in uids.into_iter().map(Uid::from_recorded) {
            if let Some(native) = self.completing_upload(uid).await? {
                found.push((uid, native));
            }
        }
        Ok(found)
    }

    /// What a store is to put together for a file; `None`: the file is not being completed.
    pub async fn completing_upload(&self, uid: Uid) -> Result<Option<NativeUpload>, DbErr> {
        let file = file::Entity::find_by_id(uid.get()).find_also_related(blob::Entity);
        let file = file.filter(file::Column::State.eq(file::State::Completing));
        match file.one(&self.reader).await? {
            Some((_, Some(blob))) => native::upload_of(&self.reader, &blob).await,
            _ => Ok(None),
        }
    }

    /// Makes a file of an upload that the store has completed, and of the parts that are objects, if there are any: then
    /// `merge` is enqueued, else `verify`. `false`: the file is not being completed any more.
    pub async fn finish_completion(
        &self,
        uid: Uid,
        blob_id: i64,
        verify: TaskForBlob,
        merge: TaskForBlob,
    ) -> Result<bool, DbErr> {
        let now = self.clock.now_ms();
        self.write_or_undo(move |transaction| {
            let (verify, merge) = (verify.clone(), merge.clone());
            Box::pin(async move {
                let finished = finish(transaction, uid, blob_id, &verify, &merge, now).await?;
                Ok(if finished { Verdict::Commit(true) } else { Verdict::Rollback(false) })
            })
        })
        .await
    }
}

async fn finish(
    transaction: &DatabaseTransaction,
    uid: Uid,
    blob_id: i64,
    verify: &TaskForBlob,
    merge: &TaskForBlob,
    now: i64,
) -> Result<bool, DbErr> {
    let stored = file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(file::State::Stored))
        .col_expr(file::Column::StoredAt, Expr::value(now_ms()))
        .filter(file::Column::Uid.eq(uid.get()))
        .filter(file::Column::BlobId.eq(blob_id))
        .filter(file::Column::State.eq(file::State::Completing))
        .exec(transaction)
        .await?;
    let blob = blob::Entity::find_by_id(blob_id).one(transaction).await?;
    let Some(blob) = blob.filter(|_| stored.rows_affected == 1) else {
        return Ok(false);
    };
    let object = part::Entity::find()
        .select_only()
        .column(part::Column::Id)
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.eq(part::State::Stored))
        .filter(part::Column::Tag.is_null());
    let is_whole = object.into_tuple::<i64>().one(transaction).await?.is_none();
    let layout = if is_whole { blob::Layout::Whole } else { blob::Layout::Parts };
    blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob::State::Stored))
        .col_expr(blob::Column::Layout, Expr::value(layout))
        .col_expr(blob::Column::Refs, Expr::value(1))
        .filter(blob::Column::Id.eq(blob_id))
        .exec(transaction)
        .await?;
    let task = if is_whole { verify } else { merge };
    tasks::enqueue(transaction, task(blob_id), Some(blob.backend), now).await?;
    Ok(true)
}

async fn complete(
    transaction: &DatabaseTransaction,
    uid: Uid,
    said: Completion,
    merge: &TaskForBlob,
    now: i64,
) -> Result<Completed, DbErr> {
    // Taken until the end: parts that arrive meanwhile, and the same wish sent twice, wait.
    let file = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
    let Some(file) = file else {
        return Ok(Completed::Unknown);
    };
    let blob = match file.blob_id {
        Some(blob_id) => blob::Entity::find_by_id(blob_id).one(transaction).await?,
        None => None,
    };
    let blob = match (file.state, blob) {
        (file::State::Stored, Some(blob)) => return Ok(compare(&file, &blob, &said)),
        (file::State::Receiving | file::State::Completing, Some(blob)) => blob,
        (file::State::Pending | file::State::Receiving, None) => {
            return Ok(Completed::Parts(0, missing(&[], said.parts)));
        }
        (closed, _) => return Ok(Completed::Closed(closed)),
    };
    let blob_id = blob.id;
    let parts = sum_of_parts(transaction, blob_id).await?;
    if (parts.count, parts.highest) != (u64::from(said.parts), said.parts) {
        let numbers = part::Entity::find()
            .select_only()
            .column(part::Column::Number)
            .filter(part::Column::BlobId.eq(blob_id))
            .filter(part::Column::State.eq(part::State::Stored))
            .order_by_asc(part::Column::Number);
        let there: Vec<i32> = numbers.into_tuple().all(transaction).await?;
        return Ok(Completed::Parts(parts.count, missing(&there, said.parts)));
    }
    if parts.size != said.size {
        return Ok(Completed::Size(parts.size));
    }
    let first = part::Entity::find()
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::Number.eq(1))
        .filter(part::Column::State.eq(part::State::Stored))
        .one(transaction)
        .await?;
    let sniffed = first.and_then(|part| part.sniffed);
    let content_type = content_type::of_file(sniffed.as_deref(), &file.name);
    let native = native::upload_of(transaction, &blob).await?;
    let (file_state, blob_state, refs) = match native {
        Some(_) => (file::State::Completing, blob::State::Receiving, 0),
        None => (file::State::Stored, blob::State::Stored, 1),
    };
    let stored = blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob_state))
        .col_expr(blob::Column::Refs, Expr::value(refs))
        .col_expr(blob::Column::Size, Expr::value(said.size.cast_signed()))
        .col_expr(blob::Column::ClaimedMd5, Expr::value(said.md5.map(|md5| md5.to_vec())))
        .col_expr(blob::Column::Sniffed, Expr::value(sniffed))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Receiving))
        .exec(transaction)
        .await?;
    if stored.rows_affected == 0 {
        return Ok(Completed::Closed(file.state));
    }
    file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(file_state))
        .col_expr(file::Column::PartCount, Expr::value(said.parts.cast_signed()))
        .col_expr(file::Column::ContentType, Expr::value(content_type))
        .col_expr(file::Column::StoredAt, Expr::value(now_ms()))
        .filter(file::Column::Uid.eq(uid.get()))
        .exec(transaction)
        .await?;
    if let Some(native) = native {
        return Ok(Completed::Native(native));
    }
    tasks::enqueue(transaction, merge(blob_id), Some(blob.backend), now).await?;
    Ok(Completed::Now)
}

struct Sum {
    count: u64,
    highest: u32,
    size: u64,
}

/// Counts the parts of a blob that count. Their numbers differ, so that as many as the highest says are all of them.
async fn sum_of_parts(transaction: &DatabaseTransaction, blob_id: i64) -> Result<Sum, DbErr> {
    let sum = part::Entity::find()
        .select_only()
        .column_as(part::Column::Id.count(), "count")
        .column_as(part::Column::Number.max(), "highest")
        .column_as(dialect::whole_sum(transaction.get_database_backend(), part::Column::Size), "size")
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.eq(part::State::Stored));
    let sum: Option<(i64, Option<i32>, Option<i64>)> = sum.into_tuple().one(transaction).await?;
    let (count, highest, size) = sum.unwrap_or_default();
    Ok(Sum {
        count: count.unsigned_abs(),
        highest: highest.unwrap_or(0).cast_unsigned(),
        size: size.unwrap_or(0).unsigned_abs(),
    })
}

/// Whether a file is what a client declares complete once more.
fn compare(file: &file::Model, blob: &blob::Model, said: &Completion) -> Completed {
    let known = blob.md5.as_deref().or(blob.claimed_md5.as_deref());
    let said_md5 = said.md5.as_ref().map(<[u8; 16]>::as_slice);
    let count_fits = file.part_count.is_none_or(|count| count.cast_unsigned() == said.parts);
    if !count_fits || blob.size != said.size.cast_signed() {
        return Completed::Otherwise;
    }
    match (said_md5, known) {
        // Of content that came in one piece nothing but the md5 says that it is what was sent in parts.
        (None, _) if file.part_count.is_none() => Completed::Otherwise,
        (None, _) => Completed::Before,
        (Some(_), None) => Completed::Unverified,
        (Some(said), Some(known)) if said == known => Completed::Before,
        (Some(_), Some(_)) => Completed::Otherwise,
    }
}

/// The first numbers up to `count` that are not there.
fn missing(there: &[i32], count: u32) -> Vec<u32> {
    let absent = |number: &u32| there.binary_search(&number.cast_signed()).is_err();
    (1..=count).filter(absent).take(NAMED).collect()
}
