//! Rows whose object is not the content of a file: rows of running or failed writes, and of
//! unfinished deletions. Unless a live node is still writing the object, the sweep removes the
//! object first and the row afterwards. So an object always has a row.

use osproxy_storage::Key;
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, sea_query::Expr,
};

use crate::MetaError;
use crate::{
    BlobDb,
    blobs::{self, packs::count_dead, stored_parts::own_key},
    boxed_future,
    db::entities::{blob, part},
    files::rows::decode_key,
};

/// The table that contains a row with an object key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectRowKind {
    /// A blob.
    Blob,
    /// A part.
    Part,
}

/// A row in state `writing` or `deleting`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfinishedRow {
    /// Row id.
    pub id: i64,
    /// The node that writes the object; `None` if the row is marked for deletion. Every node that
    /// has the store is allowed to remove such a row.
    pub writer: Option<String>,
}

/// A row marked for deletion, with the object to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingDelete {
    /// The store of the object.
    pub store: String,
    /// Key of the object; `None` if the row does not have its own object.
    pub key: Option<Key>,
    /// Size of the slots of the blob's preallocated file, in bytes, if it can have one.
    pub slot_size: Option<u64>,
    /// Slot of a part in a preallocated file that grows with its parts.
    pub slot: Option<UnusedSlot>,
}

/// A slot of a preallocated file whose bytes are not needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusedSlot {
    /// Key of the object that the preallocated file would become.
    pub key: Key,
    /// The store's id of the preallocated file.
    pub upload_id: String,
    /// Number of the part, from 1.
    pub number: u32,
}

impl BlobDb {
    /// Returns up to `limit` unfinished rows of this kind in a store, created before
    /// `created_before` (milliseconds since the Unix epoch) and with an id above `after`, ordered
    /// by id.
    #[boxed_future]
    pub async fn unfinished_rows(
        &self,
        kind: ObjectRowKind,
        store: &str,
        created_before: i64,
        after: i64,
        limit: u64,
    ) -> Result<Vec<UnfinishedRow>, MetaError> {
        match kind {
            ObjectRowKind::Blob => {
                let query = blob::Entity::find()
                    .filter(blob::Column::State.is_in([blob::State::Writing, blob::State::Deleting]))
                    .filter(blob::Column::Backend.eq(store))
                    .filter(blob::Column::CreatedAt.lt(created_before))
                    .filter(blob::Column::Id.gt(after))
                    .order_by_asc(blob::Column::Id)
                    .limit(limit);
                let rows = query.all(&self.db.reader).await?;
                let to_unfinished = |row: blob::Model| UnfinishedRow {
                    id: row.id,
                    writer: row.written_by.filter(|_| row.state == blob::State::Writing),
                };
                Ok(rows.into_iter().map(to_unfinished).collect())
            }
            ObjectRowKind::Part => {
                let query = part::Entity::find()
                    .inner_join(blob::Entity)
                    .filter(part::Column::State.is_in([part::State::Writing, part::State::Deleting]))
                    .filter(blob::Column::Backend.eq(store))
                    .filter(part::Column::CreatedAt.lt(created_before))
                    .filter(part::Column::Id.gt(after))
                    .order_by_asc(part::Column::Id)
                    .limit(limit);
                let rows = query.all(&self.db.reader).await?;
                let to_unfinished = |row: part::Model| UnfinishedRow {
                    id: row.id,
                    writer: row.written_by.filter(|_| row.state == part::State::Writing),
                };
                Ok(rows.into_iter().map(to_unfinished).collect())
            }
        }
    }

    /// Marks an unfinished row for deletion, so that it can never become content, and returns its
    /// object. The caller then removes the object and calls [`delete_row`](Self::delete_row).
    /// Returns `None` if the row became content meanwhile, or is gone.
    ///
    /// A part that was suspended before this write becomes suspended again, with the bytes that it
    /// had then; the method returns `None`.
    #[boxed_future]
    pub async fn mark_deleting(
        &self,
        kind: ObjectRowKind,
        id: i64,
    ) -> Result<Option<PendingDelete>, MetaError> {
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    Ok(match kind {
                        ObjectRowKind::Blob => {
                            let marked = blob::Entity::update_many()
                                .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
                                .filter(blob::Column::Id.eq(id))
                                .filter(
                                    blob::Column::State.is_in([blob::State::Writing, blob::State::Deleting]),
                                )
                                .exec(transaction)
                                .await?;
                            let row = blob::Entity::find_by_id(id).one(transaction).await?;
                            let Some(blob) = row.filter(|_| marked.rows_affected == 1) else {
                                return Ok(None);
                            };
                            let has_object = !blob.object_key.is_empty();
                            let key = has_object.then(|| decode_key(&blob.object_key)).transpose()?;
                            let slot_size = blobs::slot_size(&blob);
                            Some(PendingDelete { store: blob.backend, key, slot_size, slot: None })
                        }
                        ObjectRowKind::Part => {
                            suspend_again(transaction, id, None).await?;
                            let marked = part::Entity::update_many()
                                .col_expr(part::Column::State, Expr::value(part::State::Deleting))
                                .filter(part::Column::Id.eq(id))
                                .filter(
                                    part::Column::State.is_in([part::State::Writing, part::State::Deleting]),
                                )
                                .exec(transaction)
                                .await?;
                            let row =
                                part::Entity::find_by_id(id).find_also_related(blob::Entity).one(transaction);
                            let Some((part, Some(blob))) = row.await?.filter(|_| marked.rows_affected == 1)
                            else {
                                return Ok(None);
                            };
                            let (key, slot) = (own_key(&part)?, unused_slot(&part, &blob)?);
                            Some(PendingDelete { store: blob.backend, key, slot_size: None, slot })
                        }
                    })
                })
            })
            .await
    }

    /// Marks a part for deletion that the process `writer` began to write; a part that was suspended
    /// before that write becomes suspended again. Returns `false` and changes nothing if another
    /// process continues the part meanwhile.
    #[boxed_future]
    pub async fn abandon_part(&self, id: i64, writer: String) -> Result<bool, MetaError> {
        self.db
            .write(move |transaction| {
                let writer = writer.clone();
                Box::pin(async move {
                    if suspend_again(transaction, id, Some(&writer)).await? {
                        return Ok(true);
                    }
                    let marked = part::Entity::update_many()
                        .col_expr(part::Column::State, Expr::value(part::State::Deleting))
                        .filter(part::Column::Id.eq(id))
                        .filter(part::Column::State.eq(part::State::Writing))
                        .filter(part::Column::WrittenBy.eq(writer))
                        .exec(transaction)
                        .await?;
                    Ok(marked.rows_affected == 1)
                })
            })
            .await
    }

    /// Deletes the row of a blob or part whose object has been removed. Does nothing unless the row
    /// is marked for deletion. Returns `false` and keeps the row if a blob still has part rows.
    ///
    /// The first write of a part uses a key without a write id. The row of that write stays in
    /// state `gone` until the upload ends, because without this row the next write would use the
    /// same key again.
    #[boxed_future]
    pub async fn delete_row(&self, kind: ObjectRowKind, id: i64) -> Result<bool, MetaError> {
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    match kind {
                        ObjectRowKind::Blob => delete_blob_row(transaction, id).await,
                        ObjectRowKind::Part => delete_part_row(transaction, id).await.map(|()| true),
                    }
                })
            })
            .await
    }

    /// Deletes part rows in state `gone` whose blob receives no more parts: only those of the blob
    /// `blob_id`, or those of all blobs if `blob_id` is `None`.
    #[boxed_future]
    pub async fn delete_gone_parts(&self, blob_id: Option<i64>) -> Result<(), MetaError> {
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let receiving = blob::Entity::find()
                        .select_only()
                        .column(blob::Column::Id)
                        .filter(blob::Column::State.eq(blob::State::Receiving))
                        .into_query();
                    let mut delete = part::Entity::delete_many()
                        .filter(part::Column::State.eq(part::State::Gone))
                        .filter(part::Column::BlobId.not_in_subquery(receiving));
                    if let Some(blob_id) = blob_id {
                        delete = delete.filter(part::Column::BlobId.eq(blob_id));
                    }
                    delete.exec(transaction).await?;
                    Ok(())
                })
            })
            .await
    }
}

/// Makes a part that is being written, by `writer` if given, suspended again, if it was suspended
/// before and its upload is open. Returns whether it did.
async fn suspend_again(
    transaction: &DatabaseTransaction,
    id: i64,
    writer: Option<&str>,
) -> Result<bool, DbErr> {
    let receiving = blob::Entity::find()
        .select_only()
        .column(blob::Column::Id)
        .filter(blob::Column::State.eq(blob::State::Receiving))
        .filter(Expr::col((blob::Entity, blob::Column::Id)).equals((part::Entity, part::Column::BlobId)));
    let mut suspend = part::Entity::update_many()
        .col_expr(part::Column::State, Expr::value(part::State::Partial))
        .filter(part::Column::Id.eq(id))
        .filter(part::Column::State.eq(part::State::Writing))
        .filter(part::Column::Size.gt(0))
        .filter(Expr::exists(receiving.into_query()));
    if let Some(writer) = writer {
        suspend = suspend.filter(part::Column::WrittenBy.eq(writer));
    }
    Ok(suspend.exec(transaction).await?.rows_affected == 1)
}

/// Returns the slot to discard; `None` unless the part is in a growing file of an open upload.
fn unused_slot(part: &part::Model, blob: &blob::Model) -> Result<Option<UnusedSlot>, DbErr> {
    if part.tag.is_none() || blob.slot_size.is_none() || blob.state != blob::State::Receiving {
        return Ok(None);
    }
    let upload_id = blob.upload_id.clone().filter(|id| !id.is_empty());
    let Some(upload_id) = upload_id else {
        return Ok(None);
    };
    let key = decode_key(&blob.object_key)?;
    Ok(Some(UnusedSlot { key, upload_id, number: part.number.cast_unsigned() }))
}

async fn delete_blob_row(transaction: &DatabaseTransaction, id: i64) -> Result<bool, DbErr> {
    // While the row is locked, no part can be added. A part that was added before is visible here.
    // A write that starts later finds no blob.
    let blob = blob::Entity::find_by_id(id).filter(blob::Column::State.eq(blob::State::Deleting));
    let Some(blob) = blob.lock_exclusive().one(transaction).await? else {
        return Ok(true);
    };
    let part =
        part::Entity::find().select_only().column(part::Column::Id).filter(part::Column::BlobId.eq(id));
    let part: Option<i64> = part.into_tuple().one(transaction).await?;
    if part.is_some() {
        return Ok(false);
    }
    blob::Entity::delete_by_id(id).exec(transaction).await?;
    count_dead(transaction, &blob.backend, &blob.object_key).await?;
    Ok(true)
}

async fn delete_part_row(transaction: &DatabaseTransaction, id: i64) -> Result<(), DbErr> {
    let row = part::Entity::find_by_id(id).filter(part::Column::State.eq(part::State::Deleting));
    let Some(row) = row.one(transaction).await? else {
        return Ok(());
    };
    let receiving =
        blob::Entity::find_by_id(row.blob_id).filter(blob::Column::State.eq(blob::State::Receiving));
    if Key::parse(&row.object_key).is_ok_and(|key| key.is_first_write())
        && receiving.one(transaction).await?.is_some()
    {
        part::Entity::update_many()
            .col_expr(part::Column::State, Expr::value(part::State::Gone))
            .filter(part::Column::Id.eq(id))
            .exec(transaction)
            .await?;
    } else {
        part::Entity::delete_by_id(id).exec(transaction).await?;
    }
    Ok(())
}
