//! Processes readable files again, for example with newer signatures.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{ProcessPayload, ProcessSteps, ProcessingDb, enqueue};
use crate::{FileState, MetaError, boxed_future, db::entities::file};

/// Selects the files to process again.
#[derive(Clone, Debug, Default)]
pub struct RescanFilter {
    /// Only files of this tenant.
    pub tenant: Option<Tenant>,
    /// Only files whose uid is above this one.
    pub after: Option<Uid>,
}

impl ProcessingDb {
    /// Returns the uids and blobs of up to `limit` readable files, oldest uid first.
    #[boxed_future]
    pub async fn to_rescan(&self, filter: RescanFilter, limit: u64) -> Result<Vec<(Uid, i64)>, MetaError> {
        let mut files = file::Entity::find()
            .select_only()
            .columns([file::Column::Uid, file::Column::BlobId])
            .filter(file::Column::State.eq(FileState::Stored))
            .filter(file::Column::BlobId.is_not_null())
            .filter(file::Column::Uid.gt(filter.after.map_or(-1, Uid::get)));
        if let Some(tenant) = filter.tenant {
            files = files.filter(file::Column::Tenant.eq(tenant.as_str()));
        }
        let files = files.order_by_asc(file::Column::Uid).limit(limit);
        let rows: Vec<(i64, i64)> = files.into_tuple().all(&self.db.reader).await?;
        Ok(rows.into_iter().map(|(uid, blob_id)| (Uid::from_db(uid), blob_id)).collect())
    }

    /// Enqueues a task for each of these files. Each comes with its blob and an unused id for the
    /// task.
    #[boxed_future]
    pub async fn rescan(&self, files: Vec<(Uid, i64, Uid)>) -> Result<(), MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                let files = files.clone();
                Box::pin(async move {
                    for (uid, blob_id, task_id) in files {
                        let payload = ProcessPayload { uid: uid.get(), steps: ProcessSteps::Rescan };
                        enqueue(transaction, payload.task(task_id), blob_id, now).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}
