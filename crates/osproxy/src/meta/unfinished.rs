//! Objects that are no content: of attempts that run or died, and of removals that did not end.

use osproxy_storage::Key;
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};

use super::{
    Meta,
    entities::{blob, part},
};

/// Whose row names an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A blob's.
    Blob,
    /// A part's.
    Part,
}

/// A row in state `writing` or `deleting`, and the object that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Whose row it is.
    pub kind: Kind,
    /// The row's number.
    pub id: i64,
    /// Where an object may lie, as it was recorded.
    pub object_key: String,
}

impl Unfinished {
    /// What the row of a blob or part names.
    pub fn new(kind: Kind, id: i64, key: &Key) -> Self {
        Self { kind, id, object_key: key.to_string() }
    }
}

impl Meta {
    /// Up to `limit` rows of a kind beyond number `after` that are no content and were begun before a moment
    /// (milliseconds since the Unix epoch), in the order of their numbers.
    pub async fn unfinished(
        &self,
        kind: Kind,
        begun_before: i64,
        after: i64,
        limit: u64,
    ) -> Result<Vec<Unfinished>, DbErr> {
        let rows: Vec<(i64, String)> = match kind {
            Kind::Blob => {
                let unfinished = blob::Entity::find()
                    .select_only()
                    .columns([blob::Column::Id, blob::Column::ObjectKey])
                    .filter(blob::Column::State.is_in([blob::State::Writing, blob::State::Deleting]))
                    .filter(blob::Column::CreatedAt.lt(begun_before))
                    .filter(blob::Column::Id.gt(after))
                    .order_by_asc(blob::Column::Id)
                    .limit(limit);
                unfinished.into_tuple().all(&self.reader).await?
            }
            Kind::Part => {
                let unfinished = part::Entity::find()
                    .select_only()
                    .columns([part::Column::Id, part::Column::ObjectKey])
                    .filter(part::Column::State.is_in([part::State::Writing, part::State::Deleting]))
                    .filter(part::Column::CreatedAt.lt(begun_before))
                    .filter(part::Column::Id.gt(after))
                    .order_by_asc(part::Column::Id)
                    .limit(limit);
                unfinished.into_tuple().all(&self.reader).await?
            }
        };
        Ok(rows.into_iter().map(|(id, object_key)| Unfinished { kind, id, object_key }).collect())
    }

    /// Decides that what is no content never becomes any. `false`: it became content meanwhile, or is gone.
    /// After `true` the caller removes the object and then calls [`forget`](Self::forget).
    pub async fn condemn(&self, kind: Kind, id: i64) -> Result<bool, DbErr> {
        self.write(move |transaction| {
            Box::pin(async move {
                let condemned = match kind {
                    Kind::Blob => {
                        blob::Entity::update_many()
                            .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
                            .filter(blob::Column::Id.eq(id))
                            .filter(blob::Column::State.is_in([blob::State::Writing, blob::State::Deleting]))
                            .exec(transaction)
                            .await?
                    }
                    Kind::Part => {
                        part::Entity::update_many()
                            .col_expr(part::Column::State, Expr::value(part::State::Deleting))
                            .filter(part::Column::Id.eq(id))
                            .filter(part::Column::State.is_in([part::State::Writing, part::State::Deleting]))
                            .exec(transaction)
                            .await?
                    }
                };
                Ok(condemned.rows_affected == 1)
            })
        })
        .await
    }

    /// Removes the row of a blob or part whose object is gone.
    pub async fn forget(&self, kind: Kind, id: i64) -> Result<(), DbErr> {
        self.write(move |transaction| {
            Box::pin(async move {
                match kind {
                    Kind::Blob => {
                        blob::Entity::delete_many()
                            .filter(blob::Column::Id.eq(id))
                            .filter(blob::Column::State.eq(blob::State::Deleting))
                            .exec(transaction)
                            .await?;
                    }
                    Kind::Part => {
                        part::Entity::delete_many()
                            .filter(part::Column::Id.eq(id))
                            .filter(part::Column::State.eq(part::State::Deleting))
                            .exec(transaction)
                            .await?;
                    }
                }
                Ok(())
            })
        })
        .await
    }
}
