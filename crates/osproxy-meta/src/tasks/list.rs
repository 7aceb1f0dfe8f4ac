//! Queries of recorded tasks and their attempts.

use sea_orm::{ActiveEnum, ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::MetaError;
use crate::{
    Attempt, TaskDb, TaskKind, TaskRecord, TaskState, boxed_future,
    db::{
        database::Database,
        entities::{task, task_attempt},
    },
};

impl TaskState {
    /// The state's name in the database and in output.
    pub fn name(self) -> String {
        self.to_value()
    }
}

impl crate::AttemptOutcome {
    /// The outcome's name in the database and in output.
    pub fn name(self) -> String {
        self.to_value()
    }
}

/// Which tasks to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskFilter<'a> {
    /// Only tasks in this state.
    pub state: Option<TaskState>,
    /// Only tasks of this kind.
    pub kind: Option<&'a str>,
}

impl TaskDb {
    pub(crate) async fn newest_id(&self) -> Result<Option<i64>, DbErr> {
        let newest =
            task::Entity::find().select_only().column(task::Column::Id).order_by_desc(task::Column::Id);
        newest.into_tuple().one(&self.db.reader).await
    }

    /// Returns up to `limit` tasks, newest first. If `state` is given, returns only tasks in that
    /// state.
    #[boxed_future]
    pub async fn newest(&self, state: Option<TaskState>, limit: u64) -> Result<Vec<TaskRecord>, MetaError> {
        self.list(TaskFilter { state, kind: None }, None, limit).await
    }

    /// Returns up to `limit` tasks with an id below `before`, newest first. With a filter, the
    /// database also reads rows that do not match.
    #[boxed_future]
    pub async fn list<'a>(
        &'a self,
        filter: TaskFilter<'a>,
        before: Option<i64>,
        limit: u64,
    ) -> Result<Vec<TaskRecord>, MetaError> {
        let mut tasks = task::Entity::find().order_by_desc(task::Column::Id).limit(limit);
        if let Some(state) = filter.state {
            tasks = tasks.filter(task::Column::State.eq(state));
        }
        if let Some(kind) = filter.kind {
            tasks = tasks.filter(task::Column::Kind.eq(kind));
        }
        if let Some(before) = before {
            tasks = tasks.filter(task::Column::Id.lt(before));
        }
        Ok(tasks.all(&self.db.reader).await?.into_iter().map(to_task).collect())
    }

    /// Returns a task with its attempts in order.
    #[boxed_future]
    pub async fn find(&self, id: i64) -> Result<Option<(TaskRecord, Vec<Attempt>)>, MetaError> {
        Ok(find(&self.db, id).await?)
    }

    /// Whether a task with this kind and payload is queued, running or dead.
    #[boxed_future]
    pub async fn has_unfinished(&self, kind: TaskKind, payload: &str) -> Result<bool, MetaError> {
        let unfinished = [TaskState::Queued, TaskState::Running, TaskState::Dead];
        let task = task::Entity::find()
            .filter(task::Column::Kind.eq(kind.name()))
            .filter(task::Column::Payload.eq(payload))
            .filter(task::Column::State.is_in(unfinished))
            .one(&self.db.reader)
            .await?;
        Ok(task.is_some())
    }
}

/// Returns a task with its attempts in order.
pub(crate) async fn find(db: &Database, id: i64) -> Result<Option<(TaskRecord, Vec<Attempt>)>, DbErr> {
    let Some(row) = task::Entity::find_by_id(id).one(&db.reader).await? else {
        return Ok(None);
    };
    let attempts = task_attempt::Entity::find()
        .filter(task_attempt::Column::TaskId.eq(id))
        .order_by_asc(task_attempt::Column::Number)
        .all(&db.reader)
        .await?;
    let attempt = |row: task_attempt::Model| Attempt {
        number: row.number,
        lease_owner: row.lease_owner,
        started_at: row.started_at,
        ended_at: row.ended_at,
        outcome: row.outcome,
        error: row.error,
    };
    Ok(Some((to_task(row), attempts.into_iter().map(attempt).collect())))
}

fn to_task(row: task::Model) -> TaskRecord {
    TaskRecord {
        id: row.id,
        kind: row.kind,
        payload: row.payload,
        state: row.state,
        run_at: row.run_at,
        attempts: row.attempts,
        max_attempts: row.max_attempts,
        lease_owner: row.lease_owner,
        lease_until: row.lease_until,
        last_error: row.last_error,
        created_at: row.created_at,
        ended_at: row.ended_at,
        is_recurring: row.unique_key.is_some(),
    }
}
