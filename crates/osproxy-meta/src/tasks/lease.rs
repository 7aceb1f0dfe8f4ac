//! Leases of tasks: a process claims a task, renews its lease and records how the attempt ended.
//! After the lease has expired, another process can claim the task. From that claim on, the first
//! process can neither renew its lease nor record a result.

use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, DatabaseTransaction, DbErr, EntityTrait, ExprTrait,
    QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};

use crate::MetaError;
use crate::{
    AttemptOutcome, AttemptResult, BlobPayload, ClaimedTask, EventKind, TaskDb, TaskState, boxed_future,
    db::entities::{file, task, task_attempt},
    events::record::{EventContent, EventRecorder, FileEvent},
    tasks::queue::is_due,
};

/// Maximum length of a recorded error, in bytes.
const MAX_ERROR: usize = 2000;

/// Maximum number of files with an event when a task about their blob is dead.
const MAX_FILES: u64 = 100;

/// The error of a task whose attempts have all lost their leases.
const LEASES_LOST: &str = "every attempt lost its lease: the process stopped renewing it";

/// Value of `run_at` of a running task that must run again as soon as it has ended.
const ASKED_FOR: i64 = 0;

/// Makes a recurring task due now. If it is running, it runs again as soon as it has ended.
pub(crate) async fn ask_for(
    transaction: &DatabaseTransaction,
    unique_key: &str,
    now: i64,
) -> Result<(), DbErr> {
    let update = task::Entity::update_many()
        .col_expr(task::Column::RunAt, run_at_when_asked(now))
        .filter(task::Column::UniqueKey.eq(unique_key))
        .filter(task::Column::RunAt.ne(ASKED_FOR))
        .filter(task::Column::State.is_in([TaskState::Queued, TaskState::Running]));
    update.exec(transaction).await.map(drop)
}

/// New value of `run_at` of a task that is asked for: it is due now or, if it is running, as soon as
/// it has ended.
pub(crate) fn run_at_when_asked(now: i64) -> Expr {
    let is_running = task::Column::State.eq(TaskState::Running);
    Expr::case(is_running, ASKED_FOR).finally(now).into()
}

impl TaskDb {
    /// Ends leases of processes other than `owner`, so that the leased tasks become due. If
    /// `is_only_process`, ends all leases of other processes. Otherwise, ends only their leases of
    /// tasks that work on `exclusive_stores`, the stores that no other running process can access.
    /// Returns the number of ended leases.
    #[boxed_future]
    pub async fn expire_other_leases(
        &self,
        owner: &str,
        exclusive_stores: Vec<String>,
        is_only_process: bool,
    ) -> Result<u64, MetaError> {
        let (owner, now) = (owner.to_owned(), self.db.clock.now_ms());
        self.db
            .write(move |transaction| {
                let (owner, is_exclusive) = (owner.clone(), task::Column::Store.is_in(&exclusive_stores));
                Box::pin(async move {
                    let mut update = task::Entity::update_many()
                        .col_expr(task::Column::LeaseUntil, Expr::value(now))
                        .filter(task::Column::State.eq(TaskState::Running))
                        .filter(task::Column::LeaseOwner.ne(owner));
                    if !is_only_process {
                        update = update.filter(is_exclusive);
                    }
                    Ok(update.exec(transaction).await?.rows_affected)
                })
            })
            .await
    }

    /// Claims a due task for `lease` milliseconds. Returns `None` if the task is not due, if
    /// another process was faster, or if no attempt is left. In the last case the task becomes
    /// dead.
    #[boxed_future]
    pub async fn claim(&self, id: i64, owner: &str, lease: i64) -> Result<Option<ClaimedTask>, MetaError> {
        let (owner, now) = (owner.to_owned(), self.db.clock.now_ms());
        let recorder = self.db.event_recorder();
        self.db
            .write(move |transaction| {
                let (owner, recorder) = (owner.clone(), recorder.clone());
                Box::pin(async move { claim(transaction, id, &owner, now, lease, &recorder).await })
            })
            .await
    }

    /// Extends the lease of a claimed task to `lease` milliseconds from now. Returns `false` if
    /// this process has lost the lease: the work must stop.
    #[boxed_future]
    pub async fn renew(&self, claimed: &ClaimedTask, owner: &str, lease: i64) -> Result<bool, MetaError> {
        let (id, attempt, owner) = (claimed.id, claimed.attempt, owner.to_owned());
        let until = self.db.clock.now_ms().saturating_add(lease);
        self.db
            .write(move |transaction| {
                let owner = owner.clone();
                Box::pin(async move {
                    let updated = task::Entity::update_many()
                        .col_expr(task::Column::LeaseUntil, Expr::value(until))
                        .filter(holds_lease(id, attempt, &owner))
                        .exec(transaction)
                        .await?;
                    Ok(updated.rows_affected == 1)
                })
            })
            .await
    }

    /// Records how an attempt ended. Returns `false` and records nothing if this process has lost
    /// the lease.
    #[boxed_future]
    pub async fn end(
        &self,
        claimed: &ClaimedTask,
        owner: &str,
        result: AttemptResult,
    ) -> Result<bool, MetaError> {
        let (id, attempt, owner) = (claimed.id, claimed.attempt, owner.to_owned());
        let (now, recorder) = (self.db.clock.now_ms(), self.db.event_recorder());
        self.db
            .write(move |transaction| {
                let (owner, result, recorder) = (owner.clone(), result.clone(), recorder.clone());
                Box::pin(async move {
                    let ending = Ending { owner: &owner, result, now };
                    end(transaction, id, attempt, ending, &recorder).await
                })
            })
            .await
    }
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
    recorder: &EventRecorder,
) -> Result<Option<ClaimedTask>, DbErr> {
    let Some(row) = task::Entity::find_by_id(id).filter(is_due(now)).one(transaction).await? else {
        return Ok(None);
    };
    let attempt = row.attempts + 1;
    let is_exhausted = row.attempts >= row.max_attempts;
    let state = if is_exhausted { TaskState::Dead } else { TaskState::Running };
    let mut update = task::Entity::update_many()
        .col_expr(task::Column::State, Expr::value(state))
        .filter(task::Column::Id.eq(id))
        .filter(task::Column::Attempts.eq(row.attempts))
        .filter(is_due(now));
    let error = row.last_error.as_deref().unwrap_or(LEASES_LOST);
    update = if is_exhausted {
        update
            .col_expr(task::Column::LeaseOwner, Expr::value(None::<String>))
            .col_expr(task::Column::LeaseUntil, Expr::value(None::<i64>))
            .col_expr(task::Column::LastError, Expr::value(error))
            .col_expr(task::Column::EndedAt, Expr::value(now))
    } else {
        update
            .col_expr(task::Column::LeaseOwner, Expr::value(owner))
            .col_expr(task::Column::LeaseUntil, Expr::value(now.saturating_add(lease)))
            .col_expr(task::Column::RunAt, Expr::value(now))
            .col_expr(task::Column::Attempts, Expr::value(attempt))
    };
    if update.exec(transaction).await?.rows_affected == 0 {
        return Ok(None);
    }
    if row.state == TaskState::Running {
        let error = Some("the process stopped renewing its lease".to_owned());
        end_attempt(transaction, id, row.attempts, AttemptOutcome::Lost, error, now).await?;
    }
    if is_exhausted {
        record_dead(transaction, &row, recorder).await?;
        return Ok(None);
    }
    let attempt_row = task_attempt::ActiveModel {
        task_id: Set(id),
        number: Set(attempt),
        lease_owner: Set(owner.to_owned()),
        started_at: Set(now),
        ended_at: Set(None),
        outcome: Set(None),
        error: Set(None),
    };
    task_attempt::Entity::insert(attempt_row).exec_without_returning(transaction).await?;
    Ok(Some(ClaimedTask {
        id,
        kind: row.kind,
        payload: row.payload,
        attempt: attempt.cast_unsigned(),
        max_attempts: row.max_attempts.cast_unsigned(),
        store: row.store,
    }))
}

/// How and when a process ends an attempt.
struct Ending<'a> {
    owner: &'a str,
    result: AttemptResult,
    now: i64,
}

async fn end(
    transaction: &DatabaseTransaction,
    id: i64,
    attempt: u32,
    Ending { owner, result, now }: Ending<'_>,
    recorder: &EventRecorder,
) -> Result<bool, DbErr> {
    let row = task::Entity::find_by_id(id).one(transaction).await?;
    let remaining_attempts = row.as_ref().map_or(0, |row| row.max_attempts - row.attempts);
    let (state, run_at, outcome, error) = match result {
        AttemptResult::Done => (TaskState::Done, None, AttemptOutcome::Done, None),
        AttemptResult::Repeat(delay) => (TaskState::Queued, Some(now + delay), AttemptOutcome::Done, None),
        AttemptResult::Retry(error, delay) if remaining_attempts > 0 => {
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
        // The task is due at once if it was asked for while it ran.
        Some(run_at) => {
            let asked_for = Expr::col(task::Column::RunAt).eq(ASKED_FOR);
            let run_at = Expr::case(asked_for, ASKED_FOR).finally(run_at);
            update.col_expr(task::Column::RunAt, run_at.into())
        }
        None => update.col_expr(task::Column::EndedAt, Expr::value(now)),
    };
    // An attempt that is handed back does not count against the maximum.
    if outcome == AttemptOutcome::HandedBack {
        update = update.col_expr(task::Column::MaxAttempts, Expr::col(task::Column::MaxAttempts).add(1));
    }
    if update.exec(transaction).await?.rows_affected == 0 {
        return Ok(false);
    }
    if let Some(row) = row.filter(|_| state == TaskState::Dead) {
        record_dead(transaction, &row, recorder).await?;
    }
    end_attempt(transaction, id, attempt.cast_signed(), outcome, error, now).await?;
    Ok(true)
}

/// Records that a task is dead, as an event of the files whose blob the task works on; at most
/// [`MAX_FILES`] files. The error of the task is for operators, and is not part of the event.
async fn record_dead(
    transaction: &DatabaseTransaction,
    task: &task::Model,
    recorder: &EventRecorder,
) -> Result<(), DbErr> {
    let Ok(BlobPayload { blob_id }) = serde_json::from_str(&task.payload) else {
        return Ok(());
    };
    if !recorder.is_enabled() {
        return Ok(());
    }
    let files = file::Entity::find()
        .filter(file::Column::BlobId.eq(blob_id))
        .order_by_asc(file::Column::Uid)
        .limit(MAX_FILES)
        .lock_exclusive()
        .all(transaction)
        .await?;
    let reason = format!("the background task {} ({}) has used up its attempts", task.id, task.kind);
    let dead = files.iter().map(|file| {
        let content = EventContent { size: u64::try_from(file.charged).ok(), ..EventContent::default() };
        FileEvent { reason: Some(&reason), ..FileEvent::new(EventKind::TaskDead, file, content) }
    });
    recorder.record_files(transaction, dead).await
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
