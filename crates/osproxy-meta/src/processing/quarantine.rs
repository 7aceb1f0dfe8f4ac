//! Files in quarantine: listed, released or deleted by an operator.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};

use super::{
    ProcessingDb,
    verdict::{VerdictOutcome, bind_accepted, lock, record_accepted, reject},
};
use crate::{
    EventKind, FileState, Invalidation, MetaError, TaskKind, boxed_future,
    db::{
        entities::{blob, file},
        write_batcher::TxEnd,
    },
    objects::bind::{ObjectBinder, WithoutKey},
};

/// A file in quarantine.
#[derive(Clone, Debug)]
pub struct QuarantinedFile {
    /// Uid.
    pub uid: Uid,
    /// Owner.
    pub tenant: Tenant,
    /// File name.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// When it was put into quarantine, in milliseconds since the Unix epoch.
    pub since: i64,
    /// JSON text with what the steps say.
    pub record: String,
    /// Name of the store that has the object.
    pub store: String,
    /// Key of the object; empty if the content is in parts.
    pub object_key: String,
}

impl ProcessingDb {
    /// Returns up to `limit` files in quarantine, oldest uid first, after the uid `after`.
    #[boxed_future]
    pub async fn quarantined(
        &self,
        after: Option<Uid>,
        limit: u64,
    ) -> Result<Vec<QuarantinedFile>, MetaError> {
        let rows = file::Entity::find()
            .find_also_related(blob::Entity)
            .filter(file::Column::State.eq(FileState::Quarantined))
            .filter(file::Column::Uid.gt(after.map_or(-1, Uid::get)))
            .order_by_asc(file::Column::Uid)
            .limit(limit)
            .all(&self.db.reader)
            .await?;
        let quarantined = |(file, blob): (file::Model, Option<blob::Model>)| {
            let (store, object_key) =
                blob.map_or_else(Default::default, |blob| (blob.backend, blob.object_key));
            QuarantinedFile {
                uid: Uid::from_db(file.uid),
                tenant: Tenant::from_db(&file.tenant),
                name: file.name,
                size: file.charged.unsigned_abs(),
                since: file.expires_at,
                record: file.verdict.unwrap_or_default(),
                store,
                object_key,
            }
        };
        Ok(rows.into_iter().map(quarantined).collect())
    }

    /// Makes a file in quarantine readable again, and all other files with its content. Enqueues the
    /// task that computes the digests of the content again; `task_id` is an unused id for it.
    #[boxed_future]
    pub async fn release(&self, uid: Uid, task_id: Uid) -> Result<VerdictOutcome, MetaError> {
        let (task, recorder) = (self.db.task_seed(task_id), self.db.event_recorder());
        let binder = ObjectBinder::new(&self.db, recorder.clone());
        let evicting = binder.clone();
        let outcome = self
            .db
            .write_or_rollback(move |transaction| {
                let (recorder, binder) = (recorder.clone(), binder.clone());
                Box::pin(async move {
                    let superseded = TxEnd::Rollback((VerdictOutcome::Superseded, 0));
                    let file = lock(transaction, uid, &[FileState::Quarantined]).await?;
                    let Some(blob_id) = file.and_then(|file| file.blob_id) else {
                        return Ok(superseded);
                    };
                    let released = blob::Entity::update_many()
                        .col_expr(blob::Column::State, Expr::value(blob::State::Stored))
                        .filter(blob::Column::Id.eq(blob_id))
                        .filter(blob::Column::State.eq(blob::State::Quarantined))
                        .exec(transaction)
                        .await?;
                    let blob = blob::Entity::find_by_id(blob_id).one(transaction).await?;
                    let Some(blob) = blob.filter(|_| released.rows_affected == 1) else {
                        return Ok(superseded);
                    };
                    let files = file::Entity::find()
                        .select_only()
                        .column(file::Column::Uid)
                        .filter(file::Column::BlobId.eq(blob_id))
                        .filter(file::Column::State.eq(FileState::Quarantined));
                    let uids: Vec<i64> = files.into_tuple().all(transaction).await?;
                    file::Entity::update_many()
                        .col_expr(file::Column::State, Expr::value(FileState::Stored))
                        .filter(file::Column::BlobId.eq(blob_id))
                        .filter(file::Column::State.eq(FileState::Quarantined))
                        .exec(transaction)
                        .await?;
                    let uids: Vec<_> = uids.into_iter().map(Uid::from_db).collect();
                    bind_accepted(transaction, &uids, &binder, WithoutKey::Keep).await?;
                    record_accepted(transaction, &uids, &[EventKind::FileCompleted], &recorder).await?;
                    let kind = match blob.layout {
                        blob::BlobLayout::Whole => TaskKind::VerifyBlob,
                        blob::BlobLayout::Parts => TaskKind::MergeParts,
                    };
                    task.enqueue(transaction, kind, blob_id, blob.backend).await?;
                    Ok(TxEnd::Commit((VerdictOutcome::Recorded, blob_id)))
                })
            })
            .await;
        evicting.evict_replaced(&self.db);
        let (outcome, blob_id) = outcome?;
        self.db.invalidate_everywhere(Invalidation::Blob(blob_id));
        self.db.invalidate_everywhere(Invalidation::File(uid));
        Ok(outcome)
    }

    /// Removes the content of a file in quarantine: the file becomes `rejected`. The object is
    /// deleted with the last file that has this content, by the task `task_id`, an unused id.
    #[boxed_future]
    pub async fn delete_quarantined(&self, uid: Uid, task_id: Uid) -> Result<VerdictOutcome, MetaError> {
        let (quotas, delete_task) = (self.db.quotas.clone(), self.db.task_seed(task_id));
        self.db
            .write_or_rollback(move |transaction| {
                let quotas = quotas.clone();
                Box::pin(async move {
                    let Some(file) = lock(transaction, uid, &[FileState::Quarantined]).await? else {
                        return Ok(TxEnd::Rollback(VerdictOutcome::Superseded));
                    };
                    let record = file.verdict.clone().unwrap_or_default();
                    Ok(match reject(transaction, &file, record, delete_task, &quotas).await? {
                        VerdictOutcome::Recorded => TxEnd::Commit(VerdictOutcome::Recorded),
                        VerdictOutcome::Superseded => TxEnd::Rollback(VerdictOutcome::Superseded),
                    })
                })
            })
            .await
    }
}
