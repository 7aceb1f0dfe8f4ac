//! Processes readable files again, for example with newer signatures.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{ProcessPayload, ProcessSteps, ProcessingDb, ProcessingPolicy, enqueue};
use crate::{FileState, MetaError, boxed_future, db::entities::file};

/// A file to process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileToProcess {
    /// Uid.
    pub uid: Uid,
    /// Blob that has its content.
    pub blob_id: i64,
    /// An unused id for the task.
    pub task_id: Uid,
}

/// Selects the files to process again.
#[derive(Clone, Debug, Default)]
pub struct RescanFilter {
    /// Only files of this tenant.
    pub tenant: Option<Tenant>,
    /// Only files whose uid is above this one.
    pub after: Option<Uid>,
}

impl RescanFilter {
    /// Returns the uids and blobs of up to `limit` files in this state, oldest uid first.
    pub(super) async fn files(
        self,
        state: FileState,
        limit: u64,
        reader: &impl ConnectionTrait,
    ) -> Result<Vec<(Uid, i64)>, MetaError> {
        let mut files = file::Entity::find()
            .select_only()
            .columns([file::Column::Uid, file::Column::BlobId])
            .filter(file::Column::State.eq(state))
            .filter(file::Column::BlobId.is_not_null())
            .filter(file::Column::Uid.gt(self.after.map_or(-1, Uid::get)));
        if let Some(tenant) = self.tenant {
            files = files.filter(file::Column::Tenant.eq(tenant.as_str()));
        }
        let files = files.order_by_asc(file::Column::Uid).limit(limit);
        let rows: Vec<(i64, i64)> = files.into_tuple().all(reader).await?;
        Ok(rows.into_iter().map(|(uid, blob_id)| (Uid::from_db(uid), blob_id)).collect())
    }
}

impl ProcessingDb {
    /// Returns the uids and blobs of up to `limit` readable files, oldest uid first.
    #[boxed_future]
    pub async fn to_rescan(&self, filter: RescanFilter, limit: u64) -> Result<Vec<(Uid, i64)>, MetaError> {
        filter.files(FileState::Stored, limit, &self.db.reader).await
    }

    /// Enqueues a task for each of these readable files. A node runs it that has the steps
    /// `required`.
    #[boxed_future]
    pub async fn rescan(
        &self,
        files: Vec<FileToProcess>,
        required: ProcessingPolicy,
    ) -> Result<(), MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                let (files, required) = (files.clone(), required.clone());
                Box::pin(async move {
                    for FileToProcess { uid, blob_id, task_id } in files {
                        let required = Some(required.clone());
                        let payload =
                            ProcessPayload { uid: uid.get(), steps: ProcessSteps::Rescan, required };
                        enqueue(transaction, payload.task(task_id), blob_id, now).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}
