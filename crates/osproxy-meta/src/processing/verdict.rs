//! What a verdict changes. Every change is one conditional update that names the state it expects.

use osproxy_types::uid::Uid;
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect, sea_query::Expr,
};

use super::{ProcessPayload, ProcessSteps, ProcessingDb, ProcessingPolicy, enqueue};
use crate::{
    EventKind, FileMetadata, FileState, Invalidation, MetaError, TaskKind,
    access::quotas::{ChargeOutcome, Quotas, record_bytes},
    boxed_future,
    db::{
        entities::{blob, file},
        write_batcher::TxEnd,
    },
    events::record::{EventContent, EventRecorder, FileEvent},
    files::{
        delete::drop_reference,
        listing::{decode_metadata, encode_metadata},
        rows::has_blob,
    },
    objects::bind::{self, ObjectBinder, WithoutKey},
    tasks::kind::TaskSeed,
};

/// What steps have found out about a file that they accept.
#[derive(Clone, Debug)]
pub struct AcceptedFile {
    /// The state that the file must be in: `processing` or `stored`. It becomes `stored`.
    pub from: FileState,
    /// The MIME type of the content, if it is another one than the recorded one.
    pub content_type: Option<String>,
    /// Members of the JSON object `media`. They replace members with the same name.
    pub media: serde_json::Map<String, serde_json::Value>,
    /// Changes of the metadata: new values, and `None` for entries to remove.
    pub metadata: Vec<(String, Option<String>)>,
    /// JSON text with what the steps say.
    pub record: String,
    /// The other steps, if there are any.
    pub next: Option<NextSteps>,
}

/// The task that runs the other steps on a file that has become readable.
#[derive(Clone, Debug)]
pub struct NextSteps {
    /// An unused id for the task.
    pub task_id: Uid,
    /// The steps that must judge the file.
    pub required: Option<ProcessingPolicy>,
}

/// Why steps do not accept a file.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Why, for the owner of the file.
    pub reason: String,
    /// JSON text with what the steps say.
    pub record: String,
}

/// Outcome of recording a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictOutcome {
    /// The verdict is recorded.
    Recorded,
    /// The file is in another state, or has other content: somebody else was faster.
    Superseded,
}

impl VerdictOutcome {
    fn end(self) -> TxEnd<Self> {
        match self {
            Self::Recorded => TxEnd::Commit(self),
            Self::Superseded => TxEnd::Rollback(self),
        }
    }
}

impl ProcessingDb {
    /// Records that a file is accepted, and makes it readable if it was not.
    #[boxed_future]
    pub async fn accept(&self, uid: Uid, accepted: AcceptedFile) -> Result<VerdictOutcome, MetaError> {
        let (quotas, now) = (self.db.quotas.clone(), self.db.clock.now_ms());
        let recorder = self.db.event_recorder();
        let binder = ObjectBinder::new(&self.db, recorder.clone());
        let evicting = binder.clone();
        let outcome = self
            .db
            .write_or_rollback(move |transaction| {
                let (accepted, quotas, recorder) = (accepted.clone(), quotas.clone(), recorder.clone());
                let binder = binder.clone();
                Box::pin(async move {
                    let context =
                        AcceptContext { quotas: &quotas, recorder: &recorder, binder: &binder, now };
                    Ok(accept(transaction, uid, &accepted, context).await?.end())
                })
            })
            .await;
        evicting.evict_replaced(&self.db);
        self.db.invalidate_everywhere(Invalidation::File(uid));
        outcome
    }

    /// Records that a file is rejected. If no other file shares its blob, marks the blob for
    /// deletion and enqueues the task that deletes it; `task_id` is an unused id for that task.
    #[boxed_future]
    pub async fn reject(
        &self,
        uid: Uid,
        refusal: Refusal,
        task_id: Uid,
    ) -> Result<VerdictOutcome, MetaError> {
        let (quotas, delete_task) = (self.db.quotas.clone(), self.db.task_seed(task_id));
        let recorder = self.db.event_recorder();
        let outcome = self
            .db
            .write_or_rollback(move |transaction| {
                let (refusal, quotas, recorder) = (refusal.clone(), quotas.clone(), recorder.clone());
                Box::pin(async move {
                    let from = [FileState::Processing, FileState::Stored];
                    let Some(file) = lock(transaction, uid, &from).await? else {
                        return Ok(VerdictOutcome::Superseded.end());
                    };
                    let Refusal { reason, record } = refusal;
                    record_rejected(transaction, vec![file.clone()], &reason, &recorder).await?;
                    Ok(reject(transaction, &file, record, delete_task, &quotas).await?.end())
                })
            })
            .await;
        self.db.invalidate_everywhere(Invalidation::File(uid));
        outcome
    }

    /// Records that the content of a file is dangerous: neither this file nor another one with the
    /// same content can be read any more, and the content cannot be shared by its digests. The
    /// object stays.
    #[boxed_future]
    pub async fn quarantine(&self, uid: Uid, refusal: Refusal) -> Result<VerdictOutcome, MetaError> {
        let (now, recorder) = (self.db.clock.now_ms(), self.db.event_recorder());
        let outcome = self
            .db
            .write_or_rollback(move |transaction| {
                let (refusal, recorder) = (refusal.clone(), recorder.clone());
                Box::pin(async move {
                    let from = [FileState::Processing, FileState::Stored];
                    let file = lock(transaction, uid, &from).await?;
                    let Some(blob_id) = file.and_then(|file| file.blob_id) else {
                        return Ok(TxEnd::Rollback((VerdictOutcome::Superseded, 0)));
                    };
                    let outcome = quarantine(transaction, blob_id, refusal, &recorder, now).await?;
                    Ok(outcome.end().map(|outcome| (outcome, blob_id)))
                })
            })
            .await;
        self.db.invalidate_everywhere(Invalidation::File(uid));
        let (outcome, blob_id) = outcome?;
        self.db.invalidate_everywhere(Invalidation::Blob(blob_id));
        Ok(outcome)
    }
}

/// Locks a file that is in one of these states.
pub(super) async fn lock(
    transaction: &DatabaseTransaction,
    uid: Uid,
    states: &[FileState],
) -> Result<Option<file::Model>, DbErr> {
    let file = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
    Ok(file.filter(|file| states.contains(&file.state)))
}

/// What [`accept`] needs besides the file.
struct AcceptContext<'a> {
    quotas: &'a Quotas,
    recorder: &'a EventRecorder,
    binder: &'a ObjectBinder,
    now: i64,
}

async fn accept(
    transaction: &DatabaseTransaction,
    uid: Uid,
    accepted: &AcceptedFile,
    AcceptContext { quotas, recorder, binder, now }: AcceptContext<'_>,
) -> Result<VerdictOutcome, DbErr> {
    let Some(file) = lock(transaction, uid, &[accepted.from]).await? else {
        return Ok(VerdictOutcome::Superseded);
    };
    let mut media: serde_json::Map<_, _> =
        file.media.as_deref().and_then(|media| serde_json::from_str(media).ok()).unwrap_or_default();
    media.extend(accepted.media.clone());
    let media = (!media.is_empty()).then(|| serde_json::Value::Object(media).to_string());
    let content_type = accepted.content_type.clone().unwrap_or_else(|| file.content_type.clone());
    let updated = file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(FileState::Stored))
        .col_expr(file::Column::ContentType, Expr::value(content_type))
        .col_expr(file::Column::Media, Expr::value(media))
        .col_expr(file::Column::Verdict, Expr::value(accepted.record.as_str()))
        .filter(file::Column::Uid.eq(uid.get()))
        .filter(file::Column::State.eq(accepted.from))
        .filter(has_blob(file.blob_id))
        .exec(transaction)
        .await?;
    if updated.rows_affected == 0 {
        return Ok(VerdictOutcome::Superseded);
    }
    if !accepted.metadata.is_empty() {
        change_metadata(transaction, &file, &accepted.metadata, quotas).await?;
    }
    if let (Some(next), Some(blob_id)) = (&accepted.next, file.blob_id) {
        let required = next.required.clone();
        let payload = ProcessPayload { uid: uid.get(), steps: ProcessSteps::Beside, required };
        enqueue(transaction, payload.task(next.task_id), blob_id, now).await?;
    }
    bind_accepted(transaction, &[uid], binder, WithoutKey::Delete).await?;
    let completed = (accepted.from == FileState::Processing).then_some(EventKind::FileCompleted);
    let processed = accepted.next.is_none().then_some(EventKind::FileProcessed);
    let kinds: Vec<_> = completed.into_iter().chain(processed).collect();
    record_accepted(transaction, &[uid], &kinds, recorder).await?;
    Ok(VerdictOutcome::Recorded)
}

/// Binds files that are readable now to the keys that wait for them.
pub(super) async fn bind_accepted(
    transaction: &DatabaseTransaction,
    uids: &[Uid],
    binder: &ObjectBinder,
    without_key: WithoutKey,
) -> Result<(), DbErr> {
    let waiting = file::Entity::find()
        .filter(file::Column::Uid.is_in(uids.iter().map(|uid| uid.get())))
        .filter(file::Column::BucketId.is_not_null());
    for file in waiting.all(transaction).await? {
        binder.bind_accepted(transaction, &file, without_key).await?;
    }
    Ok(())
}

/// Records events of these kinds about files that are readable now.
pub(super) async fn record_accepted(
    transaction: &DatabaseTransaction,
    uids: &[Uid],
    kinds: &[EventKind],
    recorder: &EventRecorder,
) -> Result<(), DbErr> {
    if !recorder.is_enabled() {
        return Ok(());
    }
    let files = file::Entity::find()
        .find_also_related(blob::Entity)
        .filter(file::Column::Uid.is_in(uids.iter().map(|uid| uid.get())))
        .filter(file::Column::State.eq(FileState::Stored))
        .all(transaction)
        .await?;
    let mut events = Vec::new();
    for (file, blob) in &files {
        let content = blob.as_ref().map(EventContent::of_blob).unwrap_or_default();
        for kind in kinds {
            events.push(FileEvent::new(*kind, file, content));
        }
    }
    recorder.record_files(transaction, events).await
}

/// Records that these files are rejected or in quarantine.
async fn record_rejected(
    transaction: &DatabaseTransaction,
    files: Vec<file::Model>,
    reason: &str,
    recorder: &EventRecorder,
) -> Result<(), DbErr> {
    let mut events = Vec::new();
    for file in &files {
        let content = EventContent { size: u64::try_from(file.charged).ok(), ..EventContent::default() };
        let rejected = FileEvent::new(EventKind::FileRejected, file, content);
        events.push(FileEvent { reason: Some(reason), ..rejected });
    }
    recorder.record_files(transaction, events).await
}

/// Changes the metadata of a file, unless the quota of the tenant does not allow it.
async fn change_metadata(
    transaction: &DatabaseTransaction,
    file: &file::Model,
    changes: &[(String, Option<String>)],
    quotas: &Quotas,
) -> Result<(), DbErr> {
    let mut metadata: FileMetadata = decode_metadata(file)?;
    for (key, value) in changes {
        match value {
            Some(value) => metadata.insert(key.clone(), value.clone()),
            None => metadata.remove(key),
        };
    }
    let old_charge = record_bytes(&file.name, file.metadata.as_deref());
    let metadata = encode_metadata(&metadata);
    let row_charge = (file.record_bytes + record_bytes(&file.name, metadata.as_deref()) - old_charge).max(0);
    let charged = quotas.charge(transaction, &file.tenant, row_charge - file.record_bytes).await?;
    if charged == ChargeOutcome::OverQuota {
        return Ok(());
    }
    file::Entity::update_many()
        .col_expr(file::Column::Metadata, Expr::value(metadata))
        .col_expr(file::Column::RecordBytes, Expr::value(row_charge))
        .filter(file::Column::Uid.eq(file.uid))
        .exec(transaction)
        .await?;
    Ok(())
}

/// Rejects a locked file.
pub(super) async fn reject(
    transaction: &DatabaseTransaction,
    file: &file::Model,
    record: String,
    delete_task: TaskSeed,
    quotas: &Quotas,
) -> Result<VerdictOutcome, DbErr> {
    let updated = file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(FileState::Rejected))
        .col_expr(file::Column::BlobId, Expr::value(None::<i64>))
        .col_expr(file::Column::BucketId, Expr::value(None::<i64>))
        .col_expr(file::Column::ExpiresAt, Expr::value(delete_task.now))
        .col_expr(file::Column::Charged, Expr::value(0))
        .col_expr(file::Column::Media, Expr::value(None::<String>))
        .col_expr(file::Column::Verdict, Expr::value(record))
        .filter(file::Column::Uid.eq(file.uid))
        .filter(file::Column::State.eq(file.state))
        .filter(has_blob(file.blob_id))
        .exec(transaction)
        .await?;
    if updated.rows_affected == 0 {
        return Ok(VerdictOutcome::Superseded);
    }
    bind::unbind(transaction, file).await?;
    if let Some(blob_id) = file.blob_id
        && let Some(store) = drop_reference(transaction, blob_id).await?
    {
        delete_task.enqueue(transaction, TaskKind::DeleteBlob, blob_id, store).await?;
    }
    quotas.charge(transaction, &file.tenant, -file.charged).await?;
    Ok(VerdictOutcome::Recorded)
}

/// Puts a stored blob and all its files into quarantine.
async fn quarantine(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    Refusal { reason, record }: Refusal,
    recorder: &EventRecorder,
    now: i64,
) -> Result<VerdictOutcome, DbErr> {
    let updated = blob::Entity::update_many()
        .col_expr(blob::Column::State, Expr::value(blob::State::Quarantined))
        // Deduplication must not find the blob any more.
        .col_expr(blob::Column::Md5, Expr::value(None::<Vec<u8>>))
        .col_expr(blob::Column::Blake3, Expr::value(None::<Vec<u8>>))
        .col_expr(blob::Column::Sha256, Expr::value(None::<Vec<u8>>))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::State.eq(blob::State::Stored))
        .exec(transaction)
        .await?;
    if updated.rows_affected == 0 {
        return Ok(VerdictOutcome::Superseded);
    }
    if recorder.is_enabled() {
        let files = file::Entity::find()
            .filter(file::Column::BlobId.eq(blob_id))
            .filter(file::Column::State.is_in([FileState::Processing, FileState::Stored]))
            .all(transaction)
            .await?;
        record_rejected(transaction, files, &reason, recorder).await?;
    }
    file::Entity::update_many()
        .col_expr(file::Column::State, Expr::value(FileState::Quarantined))
        .col_expr(file::Column::ExpiresAt, Expr::value(now))
        .col_expr(file::Column::Media, Expr::value(None::<String>))
        .col_expr(file::Column::Verdict, Expr::value(record))
        .filter(file::Column::BlobId.eq(blob_id))
        .filter(file::Column::State.is_in([FileState::Processing, FileState::Stored]))
        .exec(transaction)
        .await?;
    Ok(VerdictOutcome::Recorded)
}
