//! Open uploads of a tenant, and the disk space reserved for them.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};

use crate::MetaError;
use crate::{
    FileState, TaskKind, UploadDb, boxed_future,
    db::{
        dialect,
        entities::{blob, file},
        write_batcher::TxEnd,
    },
    uploads::expiry::OPEN_STATES,
};

/// Number of open uploads, and disk space reserved for uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenUploads {
    /// Number of open uploads of the tenant.
    pub uploads: u64,
    /// Bytes reserved for these uploads in stores of this node.
    pub reserved: u64,
    /// Bytes reserved in stores of this node for uploads of all tenants.
    pub reserved_total: u64,
}

impl UploadDb {
    /// Counts the open uploads of a tenant and the reserved bytes. The cost grows with the number
    /// of open uploads of all tenants.
    #[boxed_future]
    pub async fn open_uploads(&self, tenant: &Tenant) -> Result<OpenUploads, MetaError> {
        let count = file::Entity::find()
            .select_only()
            .column_as(file::Column::Uid.count(), "count")
            .filter(file::Column::Tenant.eq(tenant.as_str()))
            .filter(file::Column::State.is_in(OPEN_STATES));
        let count: Option<i64> = count.into_tuple().one(&self.db.reader).await?;
        let of_tenant = self.preallocated_blobs().filter(blob::Column::Tenant.eq(tenant.as_str()));
        Ok(OpenUploads {
            uploads: count.unwrap_or(0).unsigned_abs(),
            reserved: self.total_size(of_tenant).await?,
            reserved_total: self.total_size(self.preallocated_blobs()).await?,
        })
    }

    /// Blobs that have a preallocated file in a store of this node.
    fn preallocated_blobs(&self) -> Select<blob::Entity> {
        let is_preallocated = |sizes: crate::PartSizeLimits| sizes.preallocated;
        let stores =
            self.db.node_stores.stores.iter().filter(|store| store.part_sizes.is_some_and(is_preallocated));
        blob::Entity::find()
            .filter(blob::Column::State.eq(blob::State::Receiving))
            .filter(blob::Column::PartSize.is_not_null())
            .filter(blob::Column::UploadId.is_not_null())
            .filter(blob::Column::Backend.is_in(stores.map(|store| store.name.as_str())))
    }

    async fn total_size(&self, blobs: Select<blob::Entity>) -> Result<u64, DbErr> {
        let sum = dialect::integer_sum(self.db.reader.get_database_backend(), blob::Column::Size);
        let sum: Option<Option<i64>> =
            blobs.select_only().column_as(sum, "sum").into_tuple().one(&self.db.reader).await?;
        Ok(sum.flatten().unwrap_or(0).unsigned_abs())
    }

    /// Returns up to `limit` uploads that have a reservation in `store` but no stored part. Selects
    /// uploads created before `created_before` (milliseconds since the Unix epoch) with a uid above
    /// `after`, ordered by uid.
    #[boxed_future]
    pub async fn idle_reservations(
        &self,
        store: &str,
        created_before: i64,
        after: Uid,
        limit: u64,
    ) -> Result<Vec<Uid>, MetaError> {
        let files = file::Entity::find()
            .inner_join(blob::Entity)
            .select_only()
            .column(file::Column::Uid)
            .filter(file::Column::State.eq(FileState::Receiving))
            .filter(file::Column::Received.eq(0))
            .filter(file::Column::CreatedAt.lt(created_before))
            .filter(file::Column::Uid.gt(after.get()))
            .filter(blob::Column::PartSize.is_not_null())
            .filter(blob::Column::UploadId.is_not_null())
            .filter(blob::Column::Backend.eq(store))
            .order_by_asc(file::Column::Uid)
            .limit(limit);
        let uids: Vec<i64> = files.into_tuple().all(&self.db.reader).await?;
        Ok(uids.into_iter().map(Uid::from_db).collect())
    }

    /// Releases the reservation of an upload if no part has begun, and enqueues the task that
    /// deletes the upload's blob. `task_id` is an unused id for that task. A part that arrives
    /// later reserves disk space again. Returns `false` if a part has begun, there is no
    /// reservation, or the file is not in state `receiving`.
    #[boxed_future]
    pub async fn release_reservation(&self, uid: Uid, task_id: Uid) -> Result<bool, MetaError> {
        let delete_task = self.db.task_seed(task_id);
        self.db
            .write_or_rollback(move |transaction| {
                Box::pin(async move {
                    let file = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
                    let Some(file) = file.filter(|file| file.state == FileState::Receiving) else {
                        return Ok(TxEnd::Rollback(false));
                    };
                    let Some((blob_id, store)) =
                        crate::uploads::whole::release_reservation(transaction, &file).await?
                    else {
                        return Ok(TxEnd::Rollback(false));
                    };
                    delete_task.enqueue(transaction, TaskKind::DeleteBlob, blob_id, store).await?;
                    Ok(TxEnd::Commit(true))
                })
            })
            .await
    }
}
