//! What uploads hold that are not complete.

use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};

use super::{
    FileState, Meta, TaskForBlob, dialect,
    entities::{blob, file},
    removals::OPEN,
    tasks, uploads,
    write_queue::Verdict,
};
use crate::{tenant::Tenant, uid::Uid};

/// What uploads hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenUploads {
    /// How many a tenant has.
    pub uploads: u64,
    /// Bytes that are reserved for them on disks of this machine.
    pub reserved: u64,
    /// The same, of all tenants.
    pub reserved_by_all: u64,
}

impl Meta {
    /// What the uploads of a tenant hold that are not complete. Reads as many rows as there are of them.
    pub async fn open_uploads(&self, tenant: &Tenant) -> Result<OpenUploads, DbErr> {
        let open = file::Entity::find()
            .select_only()
            .column_as(file::Column::Uid.count(), "count")
            .filter(file::Column::Tenant.eq(tenant.as_str()))
            .filter(file::Column::State.is_in(OPEN));
        let open: Option<i64> = open.into_tuple().one(&self.reader).await?;
        let of_tenant = self.reserving().filter(blob::Column::Tenant.eq(tenant.as_str()));
        Ok(OpenUploads {
            uploads: open.unwrap_or(0).unsigned_abs(),
            reserved: self.size_of(of_tenant).await?,
            reserved_by_all: self.size_of(self.reserving()).await?,
        })
    }

    /// Blobs whose parts have places in objects to be that lie here.
    fn reserving(&self) -> Select<blob::Entity> {
        let placed = |sizes: super::PartSizes| sizes.placed;
        let here = self.here.stores.iter().filter(|store| store.parts.is_some_and(placed));
        blob::Entity::find()
            .filter(blob::Column::State.eq(blob::State::Receiving))
            .filter(blob::Column::PartSize.is_not_null())
            .filter(blob::Column::UploadId.is_not_null())
            .filter(blob::Column::Backend.is_in(here.map(|store| store.name.as_str())))
    }

    async fn size_of(&self, blobs: Select<blob::Entity>) -> Result<u64, DbErr> {
        let sum = dialect::whole_sum(self.reader.get_database_backend(), blob::Column::Size);
        let sum: Option<Option<i64>> =
            blobs.select_only().column_as(sum, "sum").into_tuple().one(&self.reader).await?;
        Ok(sum.flatten().unwrap_or(0).unsigned_abs())
    }

    /// Up to `limit` uploads behind `after` whose room is reserved in a store, that were created before a moment
    /// (milliseconds since the Unix epoch) and of which nothing has come.
    pub async fn idle_reservations(
        &self,
        store: &str,
        created_before: i64,
        after: Uid,
        limit: u64,
    ) -> Result<Vec<Uid>, DbErr> {
        let idle = file::Entity::find()
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
        let uids: Vec<i64> = idle.into_tuple().all(&self.reader).await?;
        Ok(uids.into_iter().map(Uid::from_recorded).collect())
    }

    /// Gives up the room that is reserved for an upload of which nothing has come; it is reserved again with the first part.
    /// `removal`, which gets the number of a blob, is enqueued. `false`: something has come, or the upload has ended.
    pub async fn release_room(&self, uid: Uid, removal: TaskForBlob) -> Result<bool, DbErr> {
        let now = self.clock.now_ms();
        self.write_or_undo(move |transaction| {
            let removal = removal.clone();
            Box::pin(async move {
                let file = file::Entity::find_by_id(uid.get()).lock_exclusive().one(transaction).await?;
                let Some(file) = file.filter(|file| file.state == FileState::Receiving) else {
                    return Ok(Verdict::Rollback(false));
                };
                let Some((blob_id, store)) = uploads::release(transaction, &file).await? else {
                    return Ok(Verdict::Rollback(false));
                };
                tasks::enqueue(transaction, removal(blob_id), Some(store), now).await?;
                Ok(Verdict::Commit(true))
            })
        })
        .await
    }
}
