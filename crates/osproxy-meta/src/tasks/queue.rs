//! The task queue: enqueueing tasks, and finding those that are due.

use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, DatabaseTransaction, DbErr, EntityTrait, ExprTrait,
    QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};

use crate::MetaError;
use crate::{TaskDb, TaskKind, TaskState, boxed_future, db::entities::task, tasks::NewTask};

/// Enqueues a task within `transaction`. It is due at `now`, the time of the database's clock in
/// milliseconds since the Unix epoch. If `store` is given, only a node that has that store runs the
/// task.
pub(crate) async fn enqueue(
    transaction: &DatabaseTransaction,
    new: NewTask,
    store: Option<String>,
    now: i64,
) -> Result<(), DbErr> {
    task::Entity::insert(row(new, store, now)).exec_without_returning(transaction).await?;
    Ok(())
}

fn row(new: NewTask, store: Option<String>, now: i64) -> task::ActiveModel {
    task::ActiveModel {
        id: Set(new.id),
        kind: Set(new.kind.name().to_owned()),
        payload: Set(new.payload),
        unique_key: Set(None),
        store: Set(store),
        state: Set(TaskState::Queued),
        run_at: Set(now),
        attempts: Set(0),
        max_attempts: Set(new.max_attempts.cast_signed()),
        lease_owner: Set(None),
        lease_until: Set(None),
        last_error: Set(None),
        created_at: Set(now),
        ended_at: Set(None),
    }
}

impl TaskDb {
    /// Enqueues a task in a new transaction.
    pub async fn enqueue(&self, new: NewTask, store: Option<String>) -> Result<(), MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                let (new, store) = (new.clone(), store.clone());
                Box::pin(async move { enqueue(transaction, new, store, now).await })
            })
            .await
    }

    /// Creates the recurring task of this kind, or makes the existing one due now unless it is
    /// running. If `store` is given, each store has its own task of this kind.
    #[boxed_future]
    pub async fn ensure_recurring(&self, new: NewTask, store: Option<String>) -> Result<(), MetaError> {
        let now = self.db.clock.now_ms();
        let outcome = self
            .db
            .write(move |transaction| {
                let (new, store) = (new.clone(), store.clone());
                Box::pin(async move {
                    let kind = new.kind.name();
                    let key = store.as_ref().map_or(kind.to_owned(), |store| format!("{kind} {store}"));
                    let existing =
                        task::Entity::find().filter(task::Column::UniqueKey.eq(&key)).one(transaction);
                    if let Some(existing) = existing.await? {
                        task::Entity::update_many()
                            .col_expr(task::Column::State, Expr::value(TaskState::Queued))
                            .col_expr(task::Column::RunAt, Expr::value(now))
                            .col_expr(task::Column::MaxAttempts, max_attempts_from_now(new.max_attempts))
                            .filter(task::Column::Id.eq(existing.id))
                            .filter(task::Column::State.ne(TaskState::Running))
                            .exec(transaction)
                            .await?;
                        return Ok(());
                    }
                    let row = task::ActiveModel { unique_key: Set(Some(key)), ..row(new, store, now) };
                    task::Entity::insert(row).exec_without_returning(transaction).await?;
                    Ok(())
                })
            })
            .await;
        match outcome {
            // Another node inserted the task first.
            Err(MetaError::Conflict(_)) => Ok(()),
            outcome => outcome,
        }
    }

    /// Makes a dead or queued task due now, with at least `attempts` more attempts. The attempts of a
    /// recurring task stay unlimited. Returns `false` if the task does not exist, is running or is
    /// done.
    #[boxed_future]
    pub async fn retry(&self, id: i64, attempts: u32) -> Result<bool, MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let max_attempts = Expr::col(task::Column::Attempts).add(attempts.cast_signed());
                    // A recurring task has no limit of attempts, and the limit of others never falls.
                    let unchanged = Expr::col(task::Column::MaxAttempts);
                    let has_fewer = Expr::col(task::Column::UniqueKey)
                        .is_null()
                        .and(Expr::col(task::Column::MaxAttempts).lt(max_attempts.clone()));
                    let max_attempts = Expr::case(has_fewer, max_attempts).finally(unchanged);
                    let updated = task::Entity::update_many()
                        .col_expr(task::Column::State, Expr::value(TaskState::Queued))
                        .col_expr(task::Column::RunAt, Expr::value(now))
                        .col_expr(task::Column::MaxAttempts, max_attempts.into())
                        .col_expr(task::Column::EndedAt, Expr::value(None::<i64>))
                        .filter(task::Column::Id.eq(id))
                        .filter(task::Column::State.is_in([TaskState::Dead, TaskState::Queued]))
                        .exec(transaction)
                        .await?;
                    Ok(updated.rows_affected == 1)
                })
            })
            .await
    }

    /// Returns id and kind of up to `limit` due tasks of these kinds that this node can run. The
    /// tasks that have been due longest come first.
    #[boxed_future]
    pub async fn due(&self, kinds: &[TaskKind], limit: u64) -> Result<Vec<(i64, TaskKind)>, MetaError> {
        self.db.clock.sync(&self.db.reader).await?;
        let tasks = task::Entity::find()
            .select_only()
            .columns([task::Column::Id, task::Column::Kind])
            .filter(is_due(self.db.clock.now_ms()))
            .filter(task::Column::Kind.is_in(kinds.iter().map(|kind| kind.name())))
            .filter(self.is_for_node())
            .order_by_asc(task::Column::RunAt)
            .order_by_asc(task::Column::Id)
            .limit(limit);
        let tasks: Vec<(i64, String)> = tasks.into_tuple().all(&self.db.reader).await?;
        let kind_of = |name: &str| kinds.iter().copied().find(|kind| kind.name() == name);
        Ok(tasks.into_iter().filter_map(|(id, name)| Some((id, kind_of(&name)?))).collect())
    }

    /// Returns the time, in milliseconds, until this node can run the next task of these kinds;
    /// `None` if there is no such task.
    #[boxed_future]
    pub async fn next_due(&self, kinds: &[TaskKind]) -> Result<Option<i64>, MetaError> {
        let of_kinds = || {
            let kinds = task::Column::Kind.is_in(kinds.iter().map(|kind| kind.name()));
            task::Entity::find().select_only().filter(kinds).filter(self.is_for_node())
        };
        let queued = of_kinds()
            .column_as(task::Column::RunAt.min(), "at")
            .filter(task::Column::State.eq(TaskState::Queued));
        let running = of_kinds()
            .column_as(task::Column::LeaseUntil.min(), "at")
            .filter(task::Column::State.eq(TaskState::Running));
        let queued: Option<Option<i64>> = queued.into_tuple().one(&self.db.reader).await?;
        let running: Option<Option<i64>> = running.into_tuple().one(&self.db.reader).await?;
        let next = [queued.flatten(), running.flatten()].into_iter().flatten().min();
        Ok(next.map(|at| Ord::max(at.saturating_sub(self.db.clock.now_ms()), 0)))
    }

    /// Filter: tasks without a store, or with a store of this node.
    fn is_for_node(&self) -> Condition {
        Condition::any()
            .add(task::Column::Store.is_null())
            .add(task::Column::Store.is_in(self.db.node_stores.store_names()))
    }
}

/// New value of `max_attempts`: the number of attempts so far plus `attempts`.
fn max_attempts_from_now(attempts: u32) -> Expr {
    Expr::col(task::Column::Attempts).add(attempts.cast_signed())
}

/// Filter: queued tasks whose time has come, and running tasks whose lease has expired.
pub(super) fn is_due(now: i64) -> Condition {
    let queued =
        Condition::all().add(task::Column::State.eq(TaskState::Queued)).add(task::Column::RunAt.lte(now));
    let expired = Condition::all()
        .add(task::Column::State.eq(TaskState::Running))
        .add(task::Column::LeaseUntil.lte(now));
    Condition::any().add(queued).add(expired)
}
