//! Ids in use. Files, blobs, parts, tasks and idempotency keys share one sequence of ids.

use osproxy_types::uid::Uid;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::MetaError;
use crate::{
    Meta, boxed_future,
    db::entities::{blob, file, idempotency_key, part, upload_grant},
};

impl Meta {
    /// Returns the highest id in use by files, blobs, parts, tasks and idempotency keys; `None` if
    /// no id is in use. New ids must be higher.
    #[boxed_future]
    pub async fn highest_id(&self) -> Result<Option<Uid>, MetaError> {
        let newest_file =
            file::Entity::find().select_only().column(file::Column::Uid).order_by_desc(file::Column::Uid);
        let newest_blob =
            blob::Entity::find().select_only().column(blob::Column::Id).order_by_desc(blob::Column::Id);
        let file: Option<i64> = newest_file.into_tuple().one(&self.db.reader).await?;
        let newest_part =
            part::Entity::find().select_only().column(part::Column::Id).order_by_desc(part::Column::Id);
        let blob: Option<i64> = newest_blob.into_tuple().one(&self.db.reader).await?;
        let part: Option<i64> = newest_part.into_tuple().one(&self.db.reader).await?;
        let newest_reserved = idempotency_key::Entity::find()
            .select_only()
            .column(idempotency_key::Column::Uid)
            .filter(idempotency_key::Column::Uid.is_not_null())
            .order_by_desc(idempotency_key::Column::Uid);
        let reserved: Option<i64> = newest_reserved.into_tuple().one(&self.db.reader).await?;
        let newest_grant = upload_grant::Entity::find()
            .select_only()
            .column(upload_grant::Column::Id)
            .order_by_desc(upload_grant::Column::Id);
        let grant: Option<i64> = newest_grant.into_tuple().one(&self.db.reader).await?;
        let task = self.tasks.newest_id().await?;
        Ok(file.max(blob).max(part).max(task).max(reserved).max(grant).map(Uid::from_db))
    }
}
