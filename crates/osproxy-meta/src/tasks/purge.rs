//! Deletion of old tasks and attempts.

use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::MetaError;
use crate::{
    TaskDb, TaskState, boxed_future,
    db::entities::{task, task_attempt},
};

impl TaskDb {
    /// Deletes up to `limit` done tasks and up to `limit` attempts of recurring tasks, if they
    /// ended before `ended_before` (milliseconds since the Unix epoch). Returns the number of
    /// deleted tasks and attempts.
    #[boxed_future]
    pub async fn purge(&self, ended_before: i64, limit: u64) -> Result<u64, MetaError> {
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let tasks = purge_done_tasks(transaction, ended_before, limit).await?;
                    Ok(tasks + purge_recurring_attempts(transaction, ended_before, limit).await?)
                })
            })
            .await
    }
}

/// Deletes done tasks with their attempts.
async fn purge_done_tasks(
    transaction: &DatabaseTransaction,
    ended_before: i64,
    limit: u64,
) -> Result<u64, DbErr> {
    let ids = task::Entity::find()
        .select_only()
        .column(task::Column::Id)
        .filter(task::Column::State.eq(TaskState::Done))
        .filter(task::Column::EndedAt.lt(ended_before))
        .limit(limit);
    let ids: Vec<i64> = ids.into_tuple().all(transaction).await?;
    let purged = task::Entity::delete_many().filter(task::Column::Id.is_in(ids));
    Ok(purged.exec(transaction).await?.rows_affected)
}

/// Deletes ended attempts of recurring tasks. Loops over all recurring tasks, because there are
/// few: at most one per kind and store.
async fn purge_recurring_attempts(
    transaction: &DatabaseTransaction,
    ended_before: i64,
    limit: u64,
) -> Result<u64, DbErr> {
    let task_ids = task::Entity::find()
        .select_only()
        .column(task::Column::Id)
        .filter(task::Column::UniqueKey.is_not_null());
    let task_ids: Vec<i64> = task_ids.into_tuple().all(transaction).await?;
    let mut purged = 0;
    for task_id in task_ids {
        let remaining = limit.saturating_sub(purged);
        if remaining == 0 {
            break;
        }
        let numbers = task_attempt::Entity::find()
            .select_only()
            .column(task_attempt::Column::Number)
            .filter(task_attempt::Column::TaskId.eq(task_id))
            .filter(task_attempt::Column::EndedAt.lt(ended_before))
            .order_by_asc(task_attempt::Column::Number)
            .limit(remaining);
        let numbers: Vec<i32> = numbers.into_tuple().all(transaction).await?;
        if numbers.is_empty() {
            continue;
        }
        let attempts = task_attempt::Entity::delete_many()
            .filter(task_attempt::Column::TaskId.eq(task_id))
            .filter(task_attempt::Column::Number.is_in(numbers));
        purged += attempts.exec(transaction).await?.rows_affected;
    }
    Ok(purged)
}
