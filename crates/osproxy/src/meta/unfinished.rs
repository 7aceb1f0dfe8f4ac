//! Objects that are no content: of attempts that run or died, and of removals that did not end.

use osproxy_storage::Key;
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    sea_query::Expr,
};

use super::{
    Meta,
    entities::{blob, part},
    files::{part_size, recorded_key},
    parts::own_object,
};

/// Whose row names an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A blob's.
    Blob,
    /// A part's.
    Part,
}

/// A row of something that is no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Its number.
    pub id: i64,
    /// The process that was to write it; not set when it is to be removed, by whoever comes by.
    pub writer: Option<String>,
}

/// What is never going to be content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// The store that it may lie in.
    pub store: String,
    /// The key that its row names; `None`: there is nothing under a key of its own.
    pub key: Option<Key>,
    /// Bytes of each part of a blob but the last, if that was settled.
    pub part_size: Option<u64>,
}

impl Meta {
    /// Up to `limit` rows of a kind, of a store, beyond number `after` that are no content and were begun before a
    /// moment (milliseconds since the Unix epoch), in the order of their numbers.
    pub async fn unfinished(
        &self,
        kind: Kind,
        store: &str,
        begun_before: i64,
        after: i64,
        limit: u64,
    ) -> Result<Vec<Unfinished>, DbErr> {
        match kind {
            Kind::Blob => {
                let unfinished = blob::Entity::find()
                    .filter(blob::Column::State.is_in([blob::State::Writing, blob::State::Deleting]))
                    .filter(blob::Column::Backend.eq(store))
                    .filter(blob::Column::CreatedAt.lt(begun_before))
                    .filter(blob::Column::Id.gt(after))
                    .order_by_asc(blob::Column::Id)
                    .limit(limit);
                let rows = unfinished.all(&self.reader).await?;
                let found = |row: blob::Model| Unfinished {
                    id: row.id,
                    writer: row.written_by.filter(|_| row.state == blob::State::Writing),
                };
                Ok(rows.into_iter().map(found).collect())
            }
            Kind::Part => {
                let unfinished = part::Entity::find()
                    .inner_join(blob::Entity)
                    .filter(part::Column::State.is_in([part::State::Writing, part::State::Deleting]))
                    .filter(blob::Column::Backend.eq(store))
                    .filter(part::Column::CreatedAt.lt(begun_before))
                    .filter(part::Column::Id.gt(after))
                    .order_by_asc(part::Column::Id)
                    .limit(limit);
                let rows = unfinished.all(&self.reader).await?;
                let found = |row: part::Model| Unfinished {
                    id: row.id,
                    writer: row.written_by.filter(|_| row.state == part::State::Writing),
                };
                Ok(rows.into_iter().map(found).collect())
            }
        }
    }

    /// Decides that what is no content never becomes any, and says where it lies, if it does. `None`: it became
    /// content meanwhile, or is gone. Otherwise the caller removes the object and then calls [`forget`](Self::forget).
    pub async fn condemn(&self, kind: Kind, id: i64) -> Result<Option<Condemned>, DbErr> {
        self.write(move |transaction| {
            Box::pin(async move {
                Ok(match kind {
                    Kind::Blob => {
                        let condemned = blob::Entity::update_many()
                            .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
                            .filter(blob::Column::Id.eq(id))
                            .filter(blob::Column::State.is_in([blob::State::Writing, blob::State::Deleting]))
                            .exec(transaction)
                            .await?;
                        let row = blob::Entity::find_by_id(id).one(transaction).await?;
                        let Some(blob) = row.filter(|_| condemned.rows_affected == 1) else {
                            return Ok(None);
                        };
                        let has_object = !blob.object_key.is_empty();
                        let key = has_object.then(|| recorded_key(&blob.object_key)).transpose()?;
                        Some(Condemned { store: blob.backend, key, part_size: part_size(blob.part_size) })
                    }
                    Kind::Part => {
                        let condemned = part::Entity::update_many()
                            .col_expr(part::Column::State, Expr::value(part::State::Deleting))
                            .filter(part::Column::Id.eq(id))
                            .filter(part::Column::State.is_in([part::State::Writing, part::State::Deleting]))
                            .exec(transaction)
                            .await?;
                        let row =
                            part::Entity::find_by_id(id).find_also_related(blob::Entity).one(transaction);
                        let Some((part, Some(blob))) = row.await?.filter(|_| condemned.rows_affected == 1)
                        else {
                            return Ok(None);
                        };
                        Some(Condemned { store: blob.backend, key: own_object(&part)?, part_size: None })
                    }
                })
            })
        })
        .await
    }

    /// Removes the row of a blob or part whose object is gone. The first row of a part's number stays, as `gone`, until
    /// its upload goes: it has had the key that the number has by itself, and no later attempt may take that again.
    /// `false`: parts of the blob are still there, or came at the last moment.
    pub async fn forget(&self, kind: Kind, id: i64) -> Result<bool, DbErr> {
        self.write(move |transaction| {
            Box::pin(async move {
                match kind {
                    Kind::Blob => forget_blob(transaction, id).await,
                    Kind::Part => forget_part(transaction, id).await.map(|()| true),
                }
            })
        })
        .await
    }

    /// Removes what is remembered of parts that are gone, where nothing is sent any more: of one blob, or of all.
    pub async fn forget_gone_parts(&self, blob_id: Option<i64>) -> Result<(), DbErr> {
        self.write(move |transaction| {
            Box::pin(async move {
                let receiving = blob::Entity::find()
                    .select_only()
                    .column(blob::Column::Id)
                    .filter(blob::Column::State.eq(blob::State::Receiving))
                    .into_query();
                let mut gone = part::Entity::delete_many()
                    .filter(part::Column::State.eq(part::State::Gone))
                    .filter(part::Column::BlobId.not_in_subquery(receiving));
                if let Some(blob_id) = blob_id {
                    gone = gone.filter(part::Column::BlobId.eq(blob_id));
                }
                gone.exec(transaction).await?;
                Ok(())
            })
        })
        .await
    }
}

async fn forget_blob(transaction: &DatabaseTransaction, id: i64) -> Result<bool, DbErr> {
    // Taken: a part that is begun at this moment is seen, or does not find the blob any more.
    let blob = blob::Entity::find_by_id(id).filter(blob::Column::State.eq(blob::State::Deleting));
    if blob.lock_exclusive().one(transaction).await?.is_none() {
        return Ok(true);
    }
    let part =
        part::Entity::find().select_only().column(part::Column::Id).filter(part::Column::BlobId.eq(id));
    let part: Option<i64> = part.into_tuple().one(transaction).await?;
    if part.is_some() {
        return Ok(false);
    }
    blob::Entity::delete_by_id(id).exec(transaction).await?;
    Ok(true)
}

async fn forget_part(transaction: &DatabaseTransaction, id: i64) -> Result<(), DbErr> {
    let row = part::Entity::find_by_id(id).filter(part::Column::State.eq(part::State::Deleting));
    let Some(row) = row.one(transaction).await? else {
        return Ok(());
    };
    let receiving =
        blob::Entity::find_by_id(row.blob_id).filter(blob::Column::State.eq(blob::State::Receiving));
    if Key::parse(&row.object_key).is_ok_and(|key| key.is_first_attempt())
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
