//! Removes old events.

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{EventDb, MetaError, boxed_future, db::entities::event, events::read::position};

/// An event that is so much younger than the present was recorded with a wrong clock, in
/// milliseconds. It must not block the removal of others.
const MAX_FUTURE_MS: i64 = 24 * 3_600_000;

impl EventDb {
    /// Deletes up to `limit` of the first events, if they happened before `before`, in milliseconds
    /// since the Unix epoch. Keeps events without a position, and the newest event: it shows which
    /// positions were removed. Returns the number of deleted events.
    #[boxed_future]
    pub async fn purge(&self, before: i64, limit: u64) -> Result<u64, MetaError> {
        let far_future = self.db.clock.now_ms().saturating_add(MAX_FUTURE_MS);
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let position = position(transaction.get_database_backend());
                    let oldest = event::Entity::find()
                        .select_only()
                        .columns([position, event::Column::CreatedAt])
                        .filter(position.is_not_null())
                        .order_by_asc(position)
                        .limit(limit + 1);
                    let mut oldest: Vec<(i64, i64)> = oldest.into_tuple().all(transaction).await?;
                    oldest.pop();
                    let is_old = |(_, at): &(i64, i64)| *at < before || *at > far_future;
                    let Some((last, _)) = oldest.into_iter().take_while(is_old).last() else {
                        return Ok(0);
                    };
                    let purged = event::Entity::delete_many().filter(position.lte(last));
                    Ok(purged.exec(transaction).await?.rows_affected)
                })
            })
            .await
    }
}
