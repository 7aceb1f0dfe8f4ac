//! The stored parts of a blob and where their bytes are.

use std::ops::Range;

use osproxy_storage::{Key, PartLayout};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};

use crate::MetaError;
use crate::{
    BlobDb, PartDigests, blobs, boxed_future,
    db::entities::{blob, part},
    files::rows::{decode_key, part_layout},
};

/// Maximum number of row ids, or of inserted rows, in one SQL statement.
pub(crate) const MAX_ROWS: usize = 500;

/// A part that is stored.
#[derive(Clone, Debug)]
pub struct StoredPart {
    /// Id of the part's row.
    pub id: i64,
    /// Part number, from 1.
    pub number: u32,
    /// Key of the object that contains the part.
    pub key: Key,
    /// Offset of the part in that object, in bytes. An object made from a multipart upload contains
    /// several parts.
    pub offset: u64,
    /// Whether the object contains only this part.
    pub is_own_object: bool,
    /// The store's id of the preallocated file that contains the part, if it was not an object yet
    /// when the row was read.
    pub incomplete_upload: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// Digests computed when the part was received.
    pub digests: PartDigests,
}

impl StoredPart {
    /// Byte range of the part in its object.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.size
    }
}

impl BlobDb {
    /// Returns the row id of each stored part of a blob, and the key of the part's object. The key
    /// is `None` if the part does not have its own object.
    #[boxed_future]
    pub async fn part_objects(&self, blob_id: i64) -> Result<Vec<(i64, Option<Key>)>, MetaError> {
        let rows = part::Entity::find()
            .filter(part::Column::BlobId.eq(blob_id))
            .filter(part::Column::State.eq(part::State::Stored))
            .all(&self.db.reader)
            .await?;
        rows.iter().map(|part| Ok((part.id, own_key(part)?))).collect()
    }

    /// Returns the stored parts of a blob, ordered by number. Returns an empty list if parts were
    /// in a multipart upload, but the blob has been merged or verified meanwhile. The part rows are
    /// then about to be deleted.
    #[boxed_future]
    pub async fn parts(&self, blob_id: i64) -> Result<Vec<StoredPart>, MetaError> {
        let rows = part::Entity::find()
            .filter(part::Column::BlobId.eq(blob_id))
            .filter(part::Column::State.eq(part::State::Stored))
            .order_by_asc(part::Column::Number)
            .all(&self.db.reader)
            .await?;
        let (mut object, mut layout, mut slot_size) = (None, None, None);
        let mut incomplete_upload = None;
        if rows.iter().any(|part| part.tag.is_some() || part.piece.is_some())
            && let Some(blob) = blob::Entity::find_by_id(blob_id).one(&self.db.reader).await?
        {
            layout = part_layout(Some(blob.size), blob.part_size);
            // Without an upload id, the blob is merged or verified, and may lie in another object.
            if blob.upload_id.is_some() {
                object = Some(decode_key(&blob.object_key)?);
                if self.db.node_stores.is_preallocated(&blob.backend) {
                    slot_size = blobs::slot_size(&blob);
                    incomplete_upload = blob.upload_id.filter(|_| blob.state == blob::State::Receiving);
                }
            }
        }
        let (mut parts, mut offset) = (Vec::with_capacity(rows.len()), 0);
        for row in &rows {
            let mut part = from_row(row, layout)?;
            if row.tag.is_some() {
                let Some(object) = &object else {
                    return Ok(Vec::new());
                };
                // The offset of a slot follows from the number of the part; in other objects, the
                // offset follows from the sizes of the parts before.
                let slot_offset = slot_size.map(|slot_size| u64::from(part.number - 1) * slot_size);
                part.key = object.clone();
                part.offset = slot_offset.unwrap_or(offset);
                part.is_own_object = false;
                part.incomplete_upload.clone_from(&incomplete_upload);
                offset += part.size;
            }
            parts.push(part);
        }
        Ok(parts)
    }

    /// Deletes the rows of parts whose objects have been removed.
    #[boxed_future]
    pub async fn delete_part_rows(&self, ids: Vec<i64>) -> Result<(), MetaError> {
        self.db
            .write(move |transaction| {
                let ids = ids.clone();
                Box::pin(async move {
                    for ids in ids.chunks(MAX_ROWS) {
                        let ids = ids.iter().copied();
                        part::Entity::delete_many()
                            .filter(part::Column::Id.is_in(ids))
                            .exec(transaction)
                            .await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

/// Returns the key of the part's own object; `None` for a part of a multipart upload.
pub(crate) fn own_key(row: &part::Model) -> Result<Option<Key>, DbErr> {
    row.tag.is_none().then(|| decode_key(&row.object_key)).transpose()
}

fn from_row(row: &part::Model, layout: Option<PartLayout>) -> Result<StoredPart, DbErr> {
    let corrupt = || DbErr::Custom(format!("part {} is stored without a size or digest", row.id));
    if row.md5.is_none() && row.piece.is_none() {
        return Err(corrupt());
    }
    Ok(StoredPart {
        id: row.id,
        number: row.number.cast_unsigned(),
        key: decode_key(&row.object_key)?,
        offset: 0,
        is_own_object: true,
        incomplete_upload: None,
        size: u64::try_from(row.size).map_err(|_| corrupt())?,
        digests: PartDigests::from_row(row, layout),
    })
}
