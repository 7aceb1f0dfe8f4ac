//! Progress of an upload.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::MetaError;
use crate::{
    FileState, UploadDb, boxed_future,
    db::entities::{blob, file, part},
};

/// State and progress of an upload.
#[derive(Clone, Debug)]
pub struct UploadProgress {
    /// The owner of the file.
    pub tenant: Tenant,
    /// State of the file.
    pub state: FileState,
    /// Numbers of the stored parts, ascending.
    pub parts: Vec<u32>,
    /// Total size of these parts in bytes. After completion, the size of the content.
    pub received: u64,
    /// The announced size of the content in bytes, if any. After completion, the actual size.
    pub size: Option<u64>,
    /// Size of each part except the last, in bytes; `None` if the size of the content was not
    /// announced.
    pub part_size: Option<u64>,
}

impl UploadDb {
    /// Returns the status of an upload; `None` for an unknown uid.
    #[boxed_future]
    pub async fn status(&self, uid: Uid) -> Result<Option<UploadProgress>, MetaError> {
        let row =
            file::Entity::find_by_id(uid.get()).find_also_related(blob::Entity).one(&self.db.lookups).await?;
        let Some((file, blob)) = row else {
            return Ok(None);
        };
        let mut progress = UploadProgress {
            tenant: Tenant::from_db(&file.tenant),
            state: file.state,
            parts: Vec::new(),
            received: 0,
            size: file.announced_size.map(i64::unsigned_abs),
            part_size: file.part_size.map(i64::unsigned_abs),
        };
        match blob {
            Some(blob) if blob.state == blob::State::Receiving => {
                let rows = part::Entity::find()
                    .select_only()
                    .columns([part::Column::Number, part::Column::Size])
                    .filter(part::Column::BlobId.eq(blob.id))
                    .filter(part::Column::State.eq(part::State::Stored))
                    .order_by_asc(part::Column::Number);
                for (number, size) in rows.into_tuple::<(i32, i64)>().all(&self.db.reader).await? {
                    progress.parts.push(number.cast_unsigned());
                    progress.received += size.unsigned_abs();
                }
            }
            Some(blob) => {
                progress.parts.extend(1..=file.part_count.unwrap_or(0).cast_unsigned());
                progress.received = blob.size.unsigned_abs();
                progress.size = Some(progress.received);
            }
            None => {}
        }
        Ok(Some(progress))
    }
}
