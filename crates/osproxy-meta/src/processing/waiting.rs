//! Files that wait for a verdict, and the tasks that give it.

use osproxy_types::uid::Uid;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter,
    QueryOrder, QuerySelect, sea_query::Expr,
};

use super::{
    ProcessPayload, ProcessSteps, ProcessingDb, ProcessingPolicy, enqueue,
    rescan::{FileToProcess, RescanFilter},
};
use crate::{
    FileState, MetaError, TaskKind, TaskState, boxed_future,
    db::entities::{file, task},
    tasks::lease,
};

/// The states of unfinished tasks.
const LIVE: [TaskState; 2] = [TaskState::Queued, TaskState::Running];

/// Filter: the tasks that process the file `uid`, whatever steps they require.
pub(crate) fn is_about(uid: i64) -> Condition {
    // The text begins with the first member of the payload.
    Condition::all()
        .add(task::Column::Kind.eq(TaskKind::ProcessFile.name()))
        .add(task::Column::Payload.starts_with(format!("{{\"uid\":{uid},")))
}

/// Returns the id of the task that will give a verdict about the file `uid`, if there is one.
async fn live_task(connection: &impl ConnectionTrait, uid: Uid) -> Result<Option<i64>, DbErr> {
    let live = || task::Column::State.is_in(LIVE);
    let ids = || task::Entity::find().select_only().column(task::Column::Id).filter(live());
    // The first task of a file has its id. All others are found without an index.
    let first = ids().filter(task::Column::Id.eq(uid.get())).into_tuple().one(connection).await?;
    if first.is_some() {
        return Ok(first);
    }
    let steps = task::Column::Payload.contains("\"steps\":\"blocking\"");
    ids().filter(is_about(uid.get())).filter(steps).into_tuple().one(connection).await
}

impl ProcessingDb {
    /// Returns the uids and blobs of up to `limit` files that wait for a verdict, oldest uid first.
    #[boxed_future]
    pub async fn waiting(&self, filter: RescanFilter, limit: u64) -> Result<Vec<(Uid, i64)>, MetaError> {
        filter.files(FileState::Processing, limit, &self.db.reader).await
    }

    /// Whether a task will give a verdict about the file `uid`.
    #[boxed_future]
    pub async fn has_task(&self, uid: Uid) -> Result<bool, MetaError> {
        Ok(live_task(&self.db.reader, uid).await?.is_some())
    }

    /// Has the unfinished tasks that process readable files need the steps `required` from now on,
    /// instead of those that were recorded. They are due now. Looks at up to `limit` processing
    /// tasks with an id above `after`, and returns the highest of their ids.
    #[boxed_future]
    pub async fn change_steps(
        &self,
        after: i64,
        limit: u64,
        required: ProcessingPolicy,
    ) -> Result<Option<i64>, MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                let required = required.clone();
                Box::pin(async move { change_steps(transaction, after, limit, required, now).await })
            })
            .await
    }

    /// Has waiting files judged by the steps `required` from now on, instead of those that were
    /// recorded when the files became complete. Their tasks are due now; a file without a task gets
    /// one.
    #[boxed_future]
    pub async fn judge_waiting(
        &self,
        files: Vec<FileToProcess>,
        required: Option<ProcessingPolicy>,
    ) -> Result<(), MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                let (files, required) = (files.clone(), required.clone());
                Box::pin(async move {
                    for file in files {
                        judge(transaction, file, required.clone(), now).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

async fn judge(
    transaction: &DatabaseTransaction,
    FileToProcess { uid, blob_id, task_id }: FileToProcess,
    required: Option<ProcessingPolicy>,
    now: i64,
) -> Result<(), DbErr> {
    // The file may have got a verdict meanwhile.
    let file = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
    if file.is_none_or(|file| file.state != FileState::Processing) {
        return Ok(());
    }
    let payload = ProcessPayload { uid: uid.get(), steps: ProcessSteps::Blocking, required };
    let Some(id) = live_task(transaction, uid).await? else {
        return enqueue(transaction, payload.task(task_id), blob_id, now).await;
    };
    change_task(transaction, id, &payload, now).await
}

/// Changes the payload of an unfinished task, which is due now.
async fn change_task(
    transaction: &DatabaseTransaction,
    id: i64,
    payload: &ProcessPayload,
    now: i64,
) -> Result<(), DbErr> {
    task::Entity::update_many()
        .col_expr(task::Column::Payload, Expr::value(payload.task(Uid::from_db(id)).payload))
        .col_expr(task::Column::RunAt, lease::run_at_when_asked(now))
        .filter(task::Column::Id.eq(id))
        .filter(task::Column::State.is_in(LIVE))
        .exec(transaction)
        .await?;
    Ok(())
}

async fn change_steps(
    transaction: &DatabaseTransaction,
    after: i64,
    limit: u64,
    required: ProcessingPolicy,
    now: i64,
) -> Result<Option<i64>, DbErr> {
    let tasks = task::Entity::find()
        .select_only()
        .columns([task::Column::Id, task::Column::Payload])
        .filter(task::Column::Kind.eq(TaskKind::ProcessFile.name()))
        .filter(task::Column::State.is_in(LIVE))
        .filter(task::Column::Id.gt(after))
        .order_by_asc(task::Column::Id)
        .limit(limit);
    let tasks: Vec<(i64, String)> = tasks.into_tuple().all(transaction).await?;
    let last = tasks.last().map(|(id, _)| *id);
    for (id, payload) in tasks {
        let payload = serde_json::from_str::<ProcessPayload>(&payload).ok();
        let Some(payload) = payload.filter(|payload| payload.steps != ProcessSteps::Blocking) else {
            continue;
        };
        let payload = ProcessPayload { required: Some(required.clone()), ..payload };
        change_task(transaction, id, &payload, now).await?;
    }
    Ok(last)
}
