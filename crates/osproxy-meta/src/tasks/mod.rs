//! The task queue. All times are of the database's clock, so that nodes agree on leases.

pub(crate) mod kind;
pub(crate) mod list;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, DatabaseTransaction, DbErr, EntityTrait, ExprTrait,
    QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};

use crate::MetaError;
use crate::{
    Meta, TaskKind,
    db::entities::{task, task_attempt},
};

pub use task::State as TaskState;
pub use task_attempt::Outcome as AttemptOutcome;

/// Maximum length of a recorded error, in bytes.
const MAX_ERROR: usize = 2000;

/// A task to enqueue.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// Unique id.
    pub id: i64,
    /// Its kind.
    pub kind: TaskKind,
    /// JSON for the handler.
    pub payload: String,
    /// Number of attempts before the task is dead.
    pub max_attempts: u32,
}

/// A task that this process may run until its lease expires.
#[derive(Clone, Debug)]
pub struct ClaimedTask {
    /// Task id.
    pub id: i64,
    /// Name of the handler.
    pub kind: String,
    /// JSON for the handler.
    pub payload: String,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// Maximum number of attempts.
    pub max_attempts: u32,
    /// The store whose objects the task works on, if any.
    pub store: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum AttemptResult {
    /// It succeeded.
    Done,
    /// It succeeded; run the task again after this delay, in milliseconds.
    Repeat(i64),
    /// It failed with this error; retry after this delay, in milliseconds.
    Retry(String, i64),
    /// It failed with this error; retrying is useless.
    Fail(String),
    /// The process shuts down; another may run the task at once.
    HandedBack,
}

/// A task, as recorded.
#[derive(Clone, Debug)]
pub struct TaskRecord {
    /// Task id.
    pub id: i64,
    /// Name of the handler.
    pub kind: String,
    /// JSON for the handler.
    pub payload: String,
    /// Current state.
    pub state: TaskState,
    /// Earliest start, in milliseconds since the Unix epoch.
    pub run_at: i64,
    /// Number of attempts so far.
    pub attempts: i32,
    /// Maximum number of attempts.
    pub max_attempts: i32,
    /// The process that holds the lease.
    pub lease_owner: Option<String>,
    /// End of the lease, in milliseconds since the Unix epoch.
    pub lease_until: Option<i64>,
    /// Error of the last attempt.
    pub last_error: Option<String>,
    /// Creation time, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When the task was done or dead, in milliseconds since the Unix epoch.
    pub ended_at: Option<i64>,
    /// Whether it runs again and again, without a limit of attempts.
    pub is_recurring: bool,
}

/// One attempt to run a task.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Number of the attempt, from 1.
    pub number: i32,
    /// The process that ran it.
    pub lease_owner: String,
    /// Start time, in milliseconds since the Unix epoch.
    pub started_at: i64,
    /// End time, in milliseconds since the Unix epoch; `None` while it runs.
    pub ended_at: Option<i64>,
    /// Outcome; `None` while it runs.
    pub outcome: Option<AttemptOutcome>,
    /// Error of the attempt.
    pub error: Option<String>,
}

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

impl Meta {
    /// Enqueues a task in a transaction of its own.
    pub async fn enqueue(&self, new: NewTask, store: Option<String>) -> Result<(), MetaError> {
        let now = self.clock.now_ms();
        self.write(move |transaction| {
            let (new, store) = (new.clone(), store.clone());
            Box::pin(async move { enqueue(transaction, new, store, now).await })
        })
        .await
    }

    /// Ensures that the recurring task of this kind exists once (once per store, with a `store`),
    /// and is due now.
    pub async fn ensure_recurring(&self, new: NewTask, store: Option<String>) -> Result<(), MetaError> {
        let now = self.clock.now_ms();
        let ensured = self
            .write(move |transaction| {
                let (new, store) = (new.clone(), store.clone());
                Box::pin(async move {
                    let kind = new.kind.name();
                    let key = store.as_ref().map_or(kind.to_owned(), |store| format!("{kind} {store}"));
                    let known =
                        task::Entity::find().filter(task::Column::UniqueKey.eq(&key)).one(transaction);
                    if let Some(known) = known.await? {
                        task::Entity::update_many()
                            .col_expr(task::Column::State, Expr::value(TaskState::Queued))
                            .col_expr(task::Column::RunAt, Expr::value(now))
                            .col_expr(task::Column::MaxAttempts, max_attempts_from_now(new.max_attempts))
                            .filter(task::Column::Id.eq(known.id))
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
        match ensured {
            // Another node inserted it first.
            Err(MetaError::Conflict(_)) => Ok(()),
            ensured => ensured,
        }
    }

    /// Ends the leases of all processes except `owner`: on all tasks if `is_only_process`,
    /// otherwise on the tasks of `exclusive_stores`, which no other process can access.
    pub async fn expire_other_leases(
        &self,
        owner: &str,
        exclusive_stores: Vec<String>,
        is_only_process: bool,
    ) -> Result<u64, MetaError> {
        let (owner, now) = (owner.to_owned(), self.clock.now_ms());
        self.write(move |transaction| {
            let (owner, mine) = (owner.clone(), task::Column::Store.is_in(&exclusive_stores));
            Box::pin(async move {
                let mut ended = task::Entity::update_many()
                    .col_expr(task::Column::LeaseUntil, Expr::value(now))
                    .filter(task::Column::State.eq(TaskState::Running))
                    .filter(task::Column::LeaseOwner.ne(owner));
                if !is_only_process {
                    ended = ended.filter(mine);
                }
                Ok(ended.exec(transaction).await?.rows_affected)
            })
        })
        .await
    }

    /// Returns up to `limit` tasks of these kinds that are due, the longest due first: id and kind.
    pub async fn due_tasks(&self, kinds: &[TaskKind], limit: u64) -> Result<Vec<(i64, TaskKind)>, MetaError> {
        self.clock.sync(&self.reader).await?;
        let due = task::Entity::find()
            .select_only()
            .columns([task::Column::Id, task::Column::Kind])
            .filter(is_due(self.clock.now_ms()))
            .filter(task::Column::Kind.is_in(kinds.iter().map(|kind| kind.name())))
            .filter(self.is_for_node())
            .order_by_asc(task::Column::RunAt)
            .order_by_asc(task::Column::Id)
            .limit(limit);
        let due: Vec<(i64, String)> = due.into_tuple().all(&self.reader).await?;
        let kind_of = |name: &str| kinds.iter().copied().find(|kind| kind.name() == name);
        Ok(due.into_iter().filter_map(|(id, name)| Some((id, kind_of(&name)?))).collect())
    }

    /// Returns the milliseconds until the next task of these kinds is due, if there is one.
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
        let queued: Option<Option<i64>> = queued.into_tuple().one(&self.reader).await?;
        let running: Option<Option<i64>> = running.into_tuple().one(&self.reader).await?;
        let next = [queued.flatten(), running.flatten()].into_iter().flatten().min();
        Ok(next.map(|at| Ord::max(at.saturating_sub(self.clock.now_ms()), 0)))
    }

    /// Tasks without a store, or of a store of this node.
    fn is_for_node(&self) -> Condition {
        Condition::any()
            .add(task::Column::Store.is_null())
            .add(task::Column::Store.is_in(self.node_stores.store_names()))
    }

    /// Claims a due task for `lease` milliseconds. Returns `None` if another process was faster, or
    /// if no attempt is left: the task is dead then.
    pub async fn claim_task(
        &self,
        id: i64,
        owner: &str,
        lease: i64,
    ) -> Result<Option<ClaimedTask>, MetaError> {
        let (owner, now) = (owner.to_owned(), self.clock.now_ms());
        self.write(move |transaction| {
            let owner = owner.clone();
            Box::pin(async move { claim(transaction, id, &owner, now, lease).await })
        })
        .await
    }

    /// Extends the lease of a claimed task to `lease` milliseconds from now. Returns `false` if the
    /// lease is lost: the work must stop.
    pub async fn renew_task(
        &self,
        claimed: &ClaimedTask,
        owner: &str,
        lease: i64,
    ) -> Result<bool, MetaError> {
        let (id, attempt, owner) = (claimed.id, claimed.attempt, owner.to_owned());
        let until = self.clock.now_ms().saturating_add(lease);
        self.write(move |transaction| {
            let owner = owner.clone();
            Box::pin(async move {
                let renewed = task::Entity::update_many()
                    .col_expr(task::Column::LeaseUntil, Expr::value(until))
                    .filter(holds_lease(id, attempt, &owner))
                    .exec(transaction)
                    .await?;
                Ok(renewed.rows_affected == 1)
            })
        })
        .await
    }

    /// Records how an attempt ended. Returns `false` if the lease is lost: another process decides
    /// then.
    pub async fn end_task(
        &self,
        claimed: &ClaimedTask,
        owner: &str,
        ended: AttemptResult,
    ) -> Result<bool, MetaError> {
        let (id, attempt, owner) = (claimed.id, claimed.attempt, owner.to_owned());
        let now = self.clock.now_ms();
        self.write(move |transaction| {
            let (owner, ended) = (owner.clone(), ended.clone());
            Box::pin(async move { end(transaction, id, attempt, &owner, ended, now).await })
        })
        .await
    }
}

/// The new maximum for a task that gets `more` attempts.
fn max_attempts_from_now(more: u32) -> Expr {
    Expr::col(task::Column::Attempts).add(more.cast_signed())
}

/// Queued tasks whose time has come, and running tasks whose lease expired.
fn is_due(now: i64) -> Condition {
    let waiting =
        Condition::all().add(task::Column::State.eq(TaskState::Queued)).add(task::Column::RunAt.lte(now));
    let lost = Condition::all()
        .add(task::Column::State.eq(TaskState::Running))
        .add(task::Column::LeaseUntil.lte(now));
    Condition::any().add(waiting).add(lost)
}

fn holds_lease(id: i64, attempt: u32, owner: &str) -> Condition {
    Condition::all()
        .add(task::Column::Id.eq(id))
        .add(task::Column::State.eq(TaskState::Running))
        .add(task::Column::LeaseOwner.eq(owner))
        .add(task::Column::Attempts.eq(attempt.cast_signed()))
}

async fn claim(
    transaction: &DatabaseTransaction,
    id: i64,
    owner: &str,
    now: i64,
    lease: i64,
) -> Result<Option<ClaimedTask>, DbErr> {
    let Some(row) = task::Entity::find_by_id(id).filter(is_due(now)).one(transaction).await? else {
        return Ok(None);
    };
    let attempt = row.attempts + 1;
    let exhausted = row.attempts >= row.max_attempts;
    let state = if exhausted { TaskState::Dead } else { TaskState::Running };
    let mut update = task::Entity::update_many()
        .col_expr(task::Column::State, Expr::value(state))
        .filter(task::Column::Id.eq(id))
        .filter(task::Column::Attempts.eq(row.attempts))
        .filter(is_due(now));
    update = if exhausted {
        let error = "every attempt lost its lease, because its process stopped renewing it";
        update
            .col_expr(task::Column::LeaseOwner, Expr::value(None::<String>))
            .col_expr(task::Column::LeaseUntil, Expr::value(None::<i64>))
            .col_expr(task::Column::LastError, Expr::value(row.last_error.as_deref().unwrap_or(error)))
            .col_expr(task::Column::EndedAt, Expr::value(now))
    } else {
        update
            .col_expr(task::Column::LeaseOwner, Expr::value(owner))
            .col_expr(task::Column::LeaseUntil, Expr::value(now.saturating_add(lease)))
            .col_expr(task::Column::Attempts, Expr::value(attempt))
    };
    if update.exec(transaction).await?.rows_affected == 0 {
        return Ok(None);
    }
    if row.state == TaskState::Running {
        let lost = Some("the process stopped renewing its lease".to_owned());
        end_attempt(transaction, id, row.attempts, AttemptOutcome::Lost, lost, now).await?;
    }
    if exhausted {
        return Ok(None);
    }
    let begun = task_attempt::ActiveModel {
        task_id: Set(id),
        number: Set(attempt),
        lease_owner: Set(owner.to_owned()),
        started_at: Set(now),
        ended_at: Set(None),
        outcome: Set(None),
        error: Set(None),
    };
    task_attempt::Entity::insert(begun).exec_without_returning(transaction).await?;
    Ok(Some(ClaimedTask {
        id,
        kind: row.kind,
        payload: row.payload,
        attempt: attempt.cast_unsigned(),
        max_attempts: row.max_attempts.cast_unsigned(),
        store: row.store,
    }))
}

async fn end(
    transaction: &DatabaseTransaction,
    id: i64,
    attempt: u32,
    owner: &str,
    ended: AttemptResult,
    now: i64,
) -> Result<bool, DbErr> {
    let row = task::Entity::find_by_id(id).one(transaction).await?;
    let left = row.map_or(0, |row| row.max_attempts - row.attempts);
    let (state, run_at, outcome, error) = match ended {
        AttemptResult::Done => (TaskState::Done, None, AttemptOutcome::Done, None),
        AttemptResult::Repeat(delay) => (TaskState::Queued, Some(now + delay), AttemptOutcome::Done, None),
        AttemptResult::Retry(error, delay) if left > 0 => {
            (TaskState::Queued, Some(now + delay), AttemptOutcome::Failed, Some(error))
        }
        AttemptResult::Retry(error, _) | AttemptResult::Fail(error) => {
            (TaskState::Dead, None, AttemptOutcome::Failed, Some(error))
        }
        AttemptResult::HandedBack => (TaskState::Queued, Some(now), AttemptOutcome::HandedBack, None),
    };
    let error = error.map(|mut error| {
        error.truncate(error.floor_char_boundary(MAX_ERROR));
        error
    });
    let mut update = task::Entity::update_many()
        .col_expr(task::Column::State, Expr::value(state))
        .col_expr(task::Column::LeaseOwner, Expr::value(None::<String>))
        .col_expr(task::Column::LeaseUntil, Expr::value(None::<i64>))
        .filter(holds_lease(id, attempt, owner));
    if outcome != AttemptOutcome::HandedBack {
        update = update.col_expr(task::Column::LastError, Expr::value(error.clone()));
    }
    update = match run_at {
        Some(run_at) => update.col_expr(task::Column::RunAt, Expr::value(run_at)),
        None => update.col_expr(task::Column::EndedAt, Expr::value(now)),
    };
    // An attempt that is handed back does not count against the maximum.
    if outcome == AttemptOutcome::HandedBack {
        update = update.col_expr(task::Column::MaxAttempts, Expr::col(task::Column::MaxAttempts).add(1));
    }
    if update.exec(transaction).await?.rows_affected == 0 {
        return Ok(false);
    }
    end_attempt(transaction, id, attempt.cast_signed(), outcome, error, now).await?;
    Ok(true)
}

async fn end_attempt(
    transaction: &DatabaseTransaction,
    task_id: i64,
    number: i32,
    outcome: AttemptOutcome,
    error: Option<String>,
    now: i64,
) -> Result<(), DbErr> {
    task_attempt::Entity::update_many()
        .col_expr(task_attempt::Column::EndedAt, Expr::value(now))
        .col_expr(task_attempt::Column::Outcome, Expr::value(outcome))
        .col_expr(task_attempt::Column::Error, Expr::value(error))
        .filter(task_attempt::Column::TaskId.eq(task_id))
        .filter(task_attempt::Column::Number.eq(number))
        .exec(transaction)
        .await?;
    Ok(())
}
