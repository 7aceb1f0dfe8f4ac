//! Removes old events.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{EventDb, MetaError, boxed_future, db::entities::event};

impl EventDb {
    /// Deletes up to `limit` of the oldest events, if they happened before `before`, in milliseconds
    /// since the Unix epoch. Always keeps the newest event. Returns the number of deleted events.
    #[boxed_future]
    pub async fn purge(&self, before: i64, limit: u64) -> Result<u64, MetaError> {
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let oldest = event::Entity::find()
                        .select_only()
                        .columns([event::Column::Id, event::Column::CreatedAt])
                        .order_by_asc(event::Column::Id)
                        .limit(limit + 1);
                    let mut oldest: Vec<(i64, i64)> = oldest.into_tuple().all(transaction).await?;
                    oldest.pop();
                    let Some((last, _)) = oldest.into_iter().take_while(|(_, at)| *at < before).last() else {
                        return Ok(0);
                    };
                    let purged = event::Entity::delete_many().filter(event::Column::Id.lte(last));
                    Ok(purged.exec(transaction).await?.rows_affected)
                })
            })
            .await
    }
}
