//! Background work: the rows of the task engine. Time is the database's, so that all nodes mean the same by it.

use std::sync::Arc;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, DatabaseTransaction, DbErr, EntityTrait, ExprTrait,
    QueryFilter, QueryOrder, QuerySelect, SqlErr, sea_query::Expr,
};

use super::{
    Meta,
    entities::{task, task_attempt},
};

pub use task::State as TaskState;
pub use task_attempt::Outcome as AttemptOutcome;

/// Longest error that is kept, in bytes.
const MAX_ERROR: usize = 2000;

/// Work to be done.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// A number that no other task has.
    pub id: i64,
    /// Names the handler.
    pub kind: &'static str,
    /// JSON that the handler understands.
    pub payload: String,
    /// How often it may be begun before it is given up.
    pub max_attempts: u32,
}

/// Gives the task for a blob whose number only the transaction knows.
pub type TaskForBlob = Arc<dyn Fn(i64) -> NewTask + Send + Sync>;

/// Work that this process may do until its lease is over.
#[derive(Clone, Debug)]
pub struct ClaimedTask {
    /// Its number.
    pub id: i64,
    /// Names the handler.
    pub kind: String,
    /// JSON that the handler understands.
    pub payload: String,
    /// Which attempt this is, from 1 on.
    pub attempt: u32,
    /// How many there may be.
    pub max_attempts: u32,
    /// The store whose objects the work is on, if it is.
    pub store: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// Well.
    Done,
    /// Well; to be done again after so many milliseconds.
    Again(i64),
    /// Not well; to be tried again after so many milliseconds.
    Retry(String, i64),
    /// Not well, and trying again is of no use.
    Dead(String),
    /// The process stops; another may go on at once.
    HandedBack,
}

/// A task as its row says.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its number.
    pub id: i64,
    /// Names the handler.
    pub kind: String,
    /// JSON that the handler understands.
    pub payload: String,
    /// Where it stands.
    pub state: TaskState,
    /// When it may be begun, in milliseconds since the Unix epoch.
    pub run_at: i64,
    /// How often it was begun.
    pub attempts: i32,
    /// How often it may be begun.
    pub max_attempts: i32,
    /// The process that works on it.
    pub lease_owner: Option<String>,
    /// Until when it does, in milliseconds since the Unix epoch.
    pub lease_until: Option<i64>,
    /// Why the last attempt did not succeed.
    pub last_error: Option<String>,
    /// In milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When it was done or given up, in milliseconds since the Unix epoch.
    pub ended_at: Option<i64>,
    /// Runs again and again, with no limit of attempts.
    pub is_recurring: bool,
}

/// One time that a task was begun.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// From 1 on.
    pub number: i32,
    /// The process that worked on it.
    pub lease_owner: String,
    /// In milliseconds since the Unix epoch.
    pub started_at: i64,
    /// In milliseconds since the Unix epoch; not set while it runs.
    pub ended_at: Option<i64>,
    /// Not set while it runs.
    pub outcome: Option<AttemptOutcome>,
    /// What went wrong.
    pub error: Option<String>,
}

/// Puts a task into the transaction that makes it necessary.
/// With a `store` it runs where that is at hand. `now` is the time by the database's clock.
pub(super) async fn enqueue(
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
        kind: Set(new.kind.to_owned()),
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
    /// Records a task that no other change makes necessary.
    pub async fn enqueue(&self, new: NewTask, store: Option<String>) -> Result<(), DbErr> {
        let now = self.clock.now_ms();
        self.write(move |transaction| {
            let (new, store) = (new.clone(), store.clone());
            Box::pin(async move { enqueue(transaction, new, store, now).await })
        })
        .await
    }

    /// Sees to it that there is one task of this kind that comes again and again, of all or of one for a store, and that
    /// it is due now.
    pub async fn ensure_recurring(&self, new: NewTask, store: Option<String>) -> Result<(), DbErr> {
        let now = self.clock.now_ms();
        let ensured = self
            .write(move |transaction| {
                let (new, store) = (new.clone(), store.clone());
                Box::pin(async move {
                    let key =
                        store.as_ref().map_or(new.kind.to_owned(), |store| format!("{} {store}", new.kind));
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
            // Another node was faster.
            Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => Ok(()),
            ensured => ensured,
        }
    }

    /// Ends the leases of all processes but `owner` on work for the stores `own` that it has to itself; if it is `alone`, on any
    /// work.
    pub async fn end_leases_of_others(
        &self,
        owner: &str,
        own: Vec<String>,
        alone: bool,
    ) -> Result<u64, DbErr> {
        let (owner, now) = (owner.to_owned(), self.clock.now_ms());
        self.write(move |transaction| {
            let (owner, mine) = (owner.clone(), task::Column::Store.is_in(&own));
            Box::pin(async move {
                let mut ended = task::Entity::update_many()
                    .col_expr(task::Column::LeaseUntil, Expr::value(now))
                    .filter(task::Column::State.eq(TaskState::Running))
                    .filter(task::Column::LeaseOwner.ne(owner));
                if !alone {
                    ended = ended.filter(mine);
                }
                Ok(ended.exec(transaction).await?.rows_affected)
            })
        })
        .await
    }

    /// Up to `limit` tasks of these kinds that may be begun now: number and kind, those that are due longest first.
    pub async fn due_tasks(&self, kinds: &[&str], limit: u64) -> Result<Vec<(i64, String)>, DbErr> {
        self.clock.adjust(&self.reader).await?;
        let due = task::Entity::find()
            .select_only()
            .columns([task::Column::Id, task::Column::Kind])
            .filter(is_due(self.clock.now_ms()))
            .filter(task::Column::Kind.is_in(kinds.iter().copied()))
            .filter(self.is_for_here())
            .order_by_asc(task::Column::RunAt)
            .order_by_asc(task::Column::Id)
            .limit(limit);
        due.into_tuple().all(&self.reader).await
    }

    /// In how many milliseconds the next task of these kinds is due, if there is one.
    pub async fn next_due(&self, kinds: &[&str]) -> Result<Option<i64>, DbErr> {
        let of_kinds = || {
            let kinds = task::Column::Kind.is_in(kinds.iter().copied());
            task::Entity::find().select_only().filter(kinds).filter(self.is_for_here())
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

    /// Work on no store, or on one that is at hand.
    fn is_for_here(&self) -> Condition {
        Condition::any().add(task::Column::Store.is_null()).add(task::Column::Store.is_in(self.here.names()))
    }

    /// Takes a task that is due, for `lease` milliseconds; `None` when another was faster, or when there was no
    /// attempt left: then it is dead now.
    pub async fn claim_task(&self, id: i64, owner: &str, lease: i64) -> Result<Option<ClaimedTask>, DbErr> {
        let (owner, now) = (owner.to_owned(), self.clock.now_ms());
        self.write(move |transaction| {
            let owner = owner.clone();
            Box::pin(async move { claim(transaction, id, &owner, now, lease).await })
        })
        .await
    }

    /// Holds a claimed task for `lease` milliseconds more. `false`: the lease was lost, and the work must stop.
    pub async fn renew_task(&self, claimed: &ClaimedTask, owner: &str, lease: i64) -> Result<bool, DbErr> {
        let (id, attempt, owner) = (claimed.id, claimed.attempt, owner.to_owned());
        let until = self.clock.now_ms().saturating_add(lease);
        self.write(move |transaction| {
            let owner = owner.clone();
            Box::pin(async move {
                let renewed = task::Entity::update_many()
                    .col_expr(task::Column::LeaseUntil, Expr::value(until))
                    .filter(held(id, attempt, &owner))
                    .exec(transaction)
                    .await?;
                Ok(renewed.rows_affected == 1)
            })
        })
        .await
    }

    /// Records how an attempt ended. `false`: the lease was lost, and somebody else decides.
    pub async fn end_task(&self, claimed: &ClaimedTask, owner: &str, ended: Ended) -> Result<bool, DbErr> {
        let (id, attempt, owner) = (claimed.id, claimed.attempt, owner.to_owned());
        let now = self.clock.now_ms();
        self.write(move |transaction| {
            let (owner, ended) = (owner.clone(), ended.clone());
            Box::pin(async move { end(transaction, id, attempt, &owner, ended, now).await })
        })
        .await
    }
}

/// The number of attempts after which it ends, for a task that gets so many more.
fn max_attempts_from_now(more: u32) -> Expr {
    Expr::col(task::Column::Attempts).add(more.cast_signed())
}

/// Tasks that wait and whose time has come, and those whose worker was not heard of in time.
fn is_due(now: i64) -> Condition {
    let waiting =
        Condition::all().add(task::Column::State.eq(TaskState::Queued)).add(task::Column::RunAt.lte(now));
    let lost = Condition::all()
        .add(task::Column::State.eq(TaskState::Running))
        .add(task::Column::LeaseUntil.lte(now));
    Condition::any().add(waiting).add(lost)
}

fn held(id: i64, attempt: u32, owner: &str) -> Condition {
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
        let error = "every attempt was lost together with its process";
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
        let lost = Some("the process that worked on it was not heard of in time".to_owned());
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
    ended: Ended,
    now: i64,
) -> Result<bool, DbErr> {
    let row = task::Entity::find_by_id(id).one(transaction).await?;
    let left = row.map_or(0, |row| row.max_attempts - row.attempts);
    let (state, run_at, outcome, error) = match ended {
        Ended::Done => (TaskState::Done, None, AttemptOutcome::Done, None),
        Ended::Again(delay) => (TaskState::Queued, Some(now + delay), AttemptOutcome::Done, None),
        Ended::Retry(error, delay) if left > 0 => {
            (TaskState::Queued, Some(now + delay), AttemptOutcome::Failed, Some(error))
        }
        Ended::Retry(error, _) | Ended::Dead(error) => {
            (TaskState::Dead, None, AttemptOutcome::Failed, Some(error))
        }
        Ended::HandedBack => (TaskState::Queued, Some(now), AttemptOutcome::HandedBack, None),
    };
    let error = error.map(|mut error| {
        error.truncate(error.floor_char_boundary(MAX_ERROR));
        error
    });
    let mut update = task::Entity::update_many()
        .col_expr(task::Column::State, Expr::value(state))
        .col_expr(task::Column::LeaseOwner, Expr::value(None::<String>))
        .col_expr(task::Column::LeaseUntil, Expr::value(None::<i64>))
        .filter(held(id, attempt, owner));
    if outcome != AttemptOutcome::HandedBack {
        update = update.col_expr(task::Column::LastError, Expr::value(error.clone()));
    }
    update = match run_at {
        Some(run_at) => update.col_expr(task::Column::RunAt, Expr::value(run_at)),
        None => update.col_expr(task::Column::EndedAt, Expr::value(now)),
    };
    // An attempt that was handed back is not the task's fault.
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
