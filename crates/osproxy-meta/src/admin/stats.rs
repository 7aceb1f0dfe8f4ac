//! Statistics of files, blobs and tasks.

use std::collections::BTreeMap;

use sea_orm::{
    ActiveEnum, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, ExprTrait, Order, QueryFilter, QuerySelect,
    sea_query::Expr,
};

use crate::MetaError;
use crate::{
    AdminDb, FileState, TaskKind, TaskState, boxed_future,
    db::{
        dialect,
        entities::{blob, file, task},
    },
    events::read,
    now_ms,
};

/// Statistics of the whole database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseStats {
    /// When the rows were counted, in milliseconds since the Unix epoch.
    pub counted_at: i64,
    /// Number of files by state.
    pub files: Vec<(FileState, u64)>,
    /// Number of stored blobs.
    pub blobs: u64,
    /// Total size of the stored blobs, in bytes.
    pub bytes_stored: u64,
    /// Bytes saved by deduplication: how many more bytes the stored blobs would have if every file
    /// had its own blob.
    pub bytes_saved: u64,
    /// Number of tasks by kind and state.
    pub tasks_by_kind: Vec<(String, TaskState, u64)>,
    /// Number of unfinished processing tasks whose latest attempt failed.
    pub processing_held: u64,
    /// Age of the oldest unfinished processing task, in milliseconds; 0 if there is none.
    pub processing_oldest_ms: u64,
    /// Position of the newest event, which is the number of events so far.
    pub events: u64,
    /// Age of the oldest event without a position, in milliseconds; 0 if all have one.
    pub event_lag_ms: u64,
}

impl FileState {
    /// The state's name in the database and in output.
    pub fn name(self) -> String {
        self.to_value()
    }
}

impl DatabaseStats {
    /// Number of tasks, by name of the state.
    pub fn tasks_by_state(&self) -> BTreeMap<String, u64> {
        let mut tasks = BTreeMap::new();
        for (_, state, count) in &self.tasks_by_kind {
            *tasks.entry(state.name()).or_default() += count;
        }
        tasks
    }
}

impl AdminDb {
    /// Counts files, blobs and tasks. Scans whole tables or indexes: call it rarely.
    #[boxed_future]
    pub async fn stats(&self) -> Result<DatabaseStats, MetaError> {
        let counted_at = now_ms();
        let files = file::Entity::find()
            .select_only()
            .column(file::Column::State)
            .column_as(file::Column::Uid.count(), "count")
            .group_by(file::Column::State);
        let files: Vec<(FileState, i64)> = files.into_tuple().all(&self.db.reader).await?;
        let tasks = task::Entity::find()
            .select_only()
            .columns([task::Column::Kind, task::Column::State])
            .column_as(task::Column::Id.count(), "count")
            .group_by(task::Column::Kind)
            .group_by(task::Column::State);
        let tasks: Vec<(String, TaskState, i64)> = tasks.into_tuple().all(&self.db.reader).await?;
        let backend = self.db.reader.get_database_backend();
        let shared = Expr::col(blob::Column::Size).mul(Expr::col(blob::Column::Refs).sub(1));
        let stored = blob::Column::State.eq(blob::State::Stored);
        let blobs = blob::Entity::find()
            .select_only()
            .column_as(blob::Column::Id.count(), "count")
            .column_as(dialect::integer_sum(backend, blob::Column::Size), "bytes")
            .filter(stored.clone());
        let blobs: Option<(i64, Option<i64>)> = blobs.into_tuple().one(&self.db.reader).await?;
        let (blobs, bytes_stored) = blobs.unwrap_or_default();
        let saved = blob::Entity::find()
            .select_only()
            .column_as(dialect::integer_sum_of(backend, shared), "bytes")
            .filter(stored)
            .filter(blob::Column::Refs.gt(1));
        let saved: Option<Option<i64>> = saved.into_tuple().one(&self.db.reader).await?;
        let whole = |count: i64| Ord::max(count, 0).unsigned_abs();
        let (held, oldest_task) = self.unfinished_processing().await?;
        let newest_event = read::position_at_end(&self.db, Order::Desc).await?.unwrap_or(0);
        let oldest_waiting = read::oldest_without_position(&self.db).await?;
        Ok(DatabaseStats {
            events: whole(newest_event),
            processing_held: whole(held),
            processing_oldest_ms: whole(oldest_task.map_or(0, |at| self.db.clock.now_ms() - at)),
            event_lag_ms: whole(oldest_waiting.map_or(0, |at| self.db.clock.now_ms() - at)),
            counted_at,
            files: files.into_iter().map(|(state, count)| (state, whole(count))).collect(),
            blobs: whole(blobs),
            bytes_stored: whole(bytes_stored.unwrap_or(0)),
            bytes_saved: whole(saved.flatten().unwrap_or(0)),
            tasks_by_kind: tasks
                .into_iter()
                .map(|(kind, state, count)| (kind, state, whole(count)))
                .collect(),
        })
    }

    /// Returns the number of unfinished processing tasks whose latest attempt failed, and when the
    /// oldest unfinished one was created.
    async fn unfinished_processing(&self) -> Result<(i64, Option<i64>), DbErr> {
        let tasks = || {
            let kind = task::Column::Kind.eq(TaskKind::ProcessFile.name());
            let unfinished = task::Column::State.is_in([TaskState::Queued, TaskState::Running]);
            task::Entity::find().select_only().filter(kind).filter(unfinished)
        };
        let held = tasks()
            .column_as(task::Column::Id.count(), "count")
            .filter(task::Column::LastError.is_not_null());
        let held: Option<i64> = held.into_tuple().one(&self.db.reader).await?;
        let oldest = tasks().column_as(task::Column::CreatedAt.min(), "at");
        let oldest: Option<Option<i64>> = oldest.into_tuple().one(&self.db.reader).await?;
        Ok((held.unwrap_or(0), oldest.flatten()))
    }
}
