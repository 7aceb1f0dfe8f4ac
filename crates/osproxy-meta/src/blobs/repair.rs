//! Repair of a blob whose object is lost or damaged.

use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, sea_query::Expr};

use crate::MetaError;
use crate::{
    Blob, BlobDb, Invalidation, StoreOutcome, boxed_future,
    db::{entities::blob, write_batcher::TxEnd},
};

impl BlobDb {
    /// Replaces the lost or damaged object of a blob with the object of the write intent
    /// `intent_id`. The new object must be published and durable, and have the same content. The
    /// row of the intent then contains the key of the old object and is marked for deletion.
    ///
    /// Returns `Conflict` if the blob is gone or another write has repaired it, and `Swept` if the
    /// sweep has already marked the intent for deletion or removed it.
    #[boxed_future]
    pub async fn repair(&self, damaged: &Blob, intent_id: i64) -> Result<StoreOutcome, MetaError> {
        let (blob_id, damaged) = (damaged.id, damaged.clone());
        let repairing = self
            .db
            .write_or_rollback(move |transaction| Box::pin(repair(transaction, damaged.clone(), intent_id)));
        let outcome = repairing.await?;
        self.db.invalidate_everywhere(Invalidation::Blob(blob_id));
        Ok(outcome)
    }
}

async fn repair(
    transaction: &DatabaseTransaction,
    damaged: Blob,
    intent_id: i64,
) -> Result<TxEnd<StoreOutcome>, DbErr> {
    let Some(intent) = blob::Entity::find_by_id(intent_id).one(transaction).await? else {
        return Ok(TxEnd::Rollback(StoreOutcome::Swept));
    };
    let repaired = blob::Entity::update_many()
        .col_expr(blob::Column::ObjectKey, Expr::value(intent.object_key))
        .col_expr(blob::Column::Backend, Expr::value(intent.backend))
        .filter(blob::Column::Id.eq(damaged.id))
        .filter(blob::Column::ObjectKey.eq(damaged.key.as_str()))
        .filter(blob::Column::State.eq(blob::State::Stored))
        .exec(transaction)
        .await?;
    if repaired.rows_affected == 0 {
        return Ok(TxEnd::Rollback(StoreOutcome::Conflict));
    }
    let intent_updated = blob::Entity::update_many()
        .col_expr(blob::Column::ObjectKey, Expr::value(damaged.key.as_str()))
        .col_expr(blob::Column::Backend, Expr::value(damaged.store))
        .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
        .filter(blob::Column::Id.eq(intent_id))
        .filter(blob::Column::State.eq(blob::State::Writing))
        .exec(transaction)
        .await?;
    if intent_updated.rows_affected == 0 {
        return Ok(TxEnd::Rollback(StoreOutcome::Swept));
    }
    Ok(TxEnd::Commit(StoreOutcome::Stored))
}
