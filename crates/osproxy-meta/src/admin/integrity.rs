//! Raw rows of blobs and parts, for checks that compare the database with the stores.

use std::collections::HashMap;

use osproxy_types::uid::Uid;
use sea_orm::{
    ColumnTrait, DbErr, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};

use crate::MetaError;
use crate::{
    AdminDb, blobs, boxed_future,
    db::entities::{blob, file, part},
};

pub use blob::{BlobLayout, State as BlobState};
pub use part::State as PartState;

/// A blob's row, with the number of files that refer to the blob.
#[derive(Clone, Debug)]
pub struct BlobRecord {
    /// Blob id.
    pub id: i64,
    /// Lifecycle state.
    pub state: BlobState,
    /// Whether the blob is one object or several parts.
    pub layout: BlobLayout,
    /// Key of the whole object. For a blob in parts: key of its multipart upload, preallocated file
    /// or first merge; empty if there is none.
    pub object_key: String,
    /// Size in bytes.
    pub size: i64,
    /// The reference count in the row.
    pub refs: i32,
    /// Number of stored files that refer to the blob.
    pub files: i32,
    /// Number of unfinished uploads that refer to the blob.
    pub uploads: i32,
    /// Number of parts of the upload, according to a file that refers to the blob.
    pub part_count: Option<i32>,
    /// Computed digests.
    pub digests: Option<osproxy_storage::Digests>,
    /// The store's id of the multipart upload or preallocated file under `object_key`; empty until
    /// this id is known. `None` if there is no such upload.
    pub upload_id: Option<String>,
}

/// Location and digests of stored content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRecord {
    /// Blob id.
    pub id: i64,
    /// Name of the store.
    pub store: String,
    /// Whether the blob is one object or several parts.
    pub layout: BlobLayout,
    /// Key of the whole object. For a blob in parts: key of its multipart upload, preallocated file
    /// or first merge; empty if there is none.
    pub object_key: String,
    /// Size in bytes.
    pub size: i64,
    /// Computed digests; `None` until the BLAKE3 is recorded.
    pub digests: Option<osproxy_storage::Digests>,
}

impl From<blob::Model> for ContentRecord {
    fn from(blob: blob::Model) -> Self {
        Self {
            // Treat an inconsistent row as not verified.
            digests: blobs::computed_digests(&blob).ok().flatten(),
            id: blob.id,
            store: blob.backend,
            layout: blob.layout,
            object_key: blob.object_key,
            size: blob.size,
        }
    }
}

/// A part's row.
#[derive(Clone, Debug)]
pub struct PartRecord {
    /// Id of the row.
    pub id: i64,
    /// Part number, 1-based.
    pub number: i32,
    /// Lifecycle state.
    pub state: PartState,
    /// Key of the object.
    pub object_key: String,
    /// Size in bytes.
    pub size: i64,
    /// Computed digests.
    pub digests: crate::PartDigests,
    /// The store's tag of a part in a multipart upload; `None` if the part has its own object.
    pub tag: Option<String>,
}

/// Whether a file in this state has complete content, to which it counts as a reference.
fn is_content(state: file::State) -> bool {
    state.is_complete() || state == file::State::Quarantined
}

impl AdminDb {
    /// Returns up to `limit` blobs of a store with an id greater than `after`, ordered by id.
    #[boxed_future]
    pub async fn blob_records(
        &self,
        store: &str,
        after: i64,
        limit: u64,
    ) -> Result<Vec<BlobRecord>, MetaError> {
        let rows = blob::Entity::find()
            .filter(blob::Column::Id.gt(after))
            .filter(blob::Column::Backend.eq(store))
            .order_by_asc(blob::Column::Id)
            .limit(limit)
            .all(&self.db.reader)
            .await?;
        Ok(self.with_file_counts(rows).await?)
    }

    /// Converts rows to records, with the number of files that refer to each blob.
    pub(crate) async fn with_file_counts(&self, rows: Vec<blob::Model>) -> Result<Vec<BlobRecord>, DbErr> {
        let ids: Vec<_> = rows.iter().map(|blob| blob.id).collect();
        let counts = file::Entity::find()
            .select_only()
            .columns([file::Column::BlobId, file::Column::State])
            .column_as(file::Column::Uid.count(), "count")
            .column_as(file::Column::PartCount.max(), "part_count")
            .filter(file::Column::BlobId.is_in(ids))
            .group_by(file::Column::BlobId)
            .group_by(file::Column::State);
        let counts: Vec<(i64, file::State, i64, Option<i32>)> =
            counts.into_tuple().all(&self.db.reader).await?;
        let (mut files, mut uploads, mut part_counts) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (blob_id, state, count, part_count) in counts {
            let counts = if is_content(state) { &mut files } else { &mut uploads };
            *counts.entry(blob_id).or_default() += i32::try_from(count).unwrap_or(i32::MAX);
            part_counts.insert(blob_id, part_count);
        }
        let to_record = |blob: blob::Model| {
            Ok(BlobRecord {
                // Treat an inconsistent row as not verified.
                digests: blobs::computed_digests(&blob).ok().flatten(),
                files: files.get(&blob.id).copied().unwrap_or(0),
                uploads: uploads.get(&blob.id).copied().unwrap_or(0),
                part_count: part_counts.get(&blob.id).copied().flatten(),
                id: blob.id,
                state: blob.state,
                layout: blob.layout,
                object_key: blob.object_key,
                size: blob.size,
                refs: blob.refs,
                upload_id: blob.upload_id,
            })
        };
        rows.into_iter().map(to_record).collect()
    }

    /// Returns up to `limit` stored blobs of all stores with an id greater than `after`, ordered by
    /// id.
    #[boxed_future]
    pub async fn content_records(&self, after: i64, limit: u64) -> Result<Vec<ContentRecord>, MetaError> {
        let rows = blob::Entity::find()
            .filter(blob::Column::Id.gt(after))
            .filter(blob::Column::State.eq(blob::State::Stored))
            .order_by_asc(blob::Column::Id)
            .limit(limit);
        Ok(rows.all(&self.db.reader).await?.into_iter().map(ContentRecord::from).collect())
    }

    /// Reads one blob; `None` if the blob is not stored.
    #[boxed_future]
    pub async fn content_record(&self, blob_id: i64) -> Result<Option<ContentRecord>, MetaError> {
        let row = blob::Entity::find_by_id(blob_id).filter(blob::Column::State.eq(blob::State::Stored));
        Ok(row.one(&self.db.reader).await?.map(ContentRecord::from))
    }

    /// Returns the first `limit` files that share a blob, ordered by uid.
    #[boxed_future]
    pub async fn files_of_blob(&self, blob_id: i64, limit: u64) -> Result<Vec<Uid>, MetaError> {
        let rows = file::Entity::find()
            .select_only()
            .column(file::Column::Uid)
            .filter(file::Column::BlobId.eq(blob_id))
            .order_by_asc(file::Column::Uid)
            .limit(limit);
        let uids: Vec<i64> = rows.into_tuple().all(&self.db.reader).await?;
        Ok(uids.into_iter().map(Uid::from_db).collect())
    }

    /// Returns the parts of a blob, ordered by part number. Omits parts in state `gone`, which have
    /// no object.
    #[boxed_future]
    pub async fn part_records(&self, blob_id: i64) -> Result<Vec<PartRecord>, MetaError> {
        let rows = part::Entity::find()
            .filter(part::Column::BlobId.eq(blob_id))
            .filter(part::Column::State.ne(part::State::Gone))
            .order_by_asc(part::Column::Number)
            .order_by_asc(part::Column::Id)
            .all(&self.db.reader)
            .await?;
        let mut layout = None;
        if rows.iter().any(|part| part.piece.is_some()) {
            let blob = blob::Entity::find_by_id(blob_id).one(&self.db.reader).await?;
            layout = blob.and_then(|blob| crate::files::rows::part_layout(Some(blob.size), blob.part_size));
        }
        let to_record = |part: part::Model| PartRecord {
            digests: crate::PartDigests::from_row(&part, layout),
            id: part.id,
            number: part.number,
            state: part.state,
            object_key: part.object_key,
            size: part.size,
            tag: part.tag,
        };
        Ok(rows.into_iter().map(to_record).collect())
    }

    /// Returns stored files whose blob is missing or not stored.
    #[boxed_future]
    pub async fn files_without_content(&self) -> Result<Vec<Uid>, MetaError> {
        let missing = file::Entity::find()
            .left_join(blob::Entity)
            .select_only()
            .column(file::Column::Uid)
            .filter(file::Column::State.eq(file::State::Stored))
            .filter(
                // The file may have no blob, or refer to a blob that does not exist.
                Expr::col((blob::Entity, blob::Column::Id)).is_null().or(Expr::col((
                    blob::Entity,
                    blob::Column::State,
                ))
                .ne(blob::State::Stored)),
            );
        let uids: Vec<i64> = missing.into_tuple().all(&self.db.reader).await?;
        Ok(uids.into_iter().map(Uid::from_db).collect())
    }

    /// Sets the reference count of a blob. Safe only while nothing else writes to the database.
    #[boxed_future]
    pub async fn set_ref_count(&self, blob_id: i64, files: i32) -> Result<(), MetaError> {
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    blob::Entity::update_many()
                        .col_expr(blob::Column::Refs, Expr::value(files))
                        .filter(blob::Column::Id.eq(blob_id))
                        .exec(transaction)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Marks a blob for deletion. Returns `false` and changes nothing if a file refers to the blob.
    #[boxed_future]
    pub async fn mark_unreferenced_deleting(&self, blob_id: i64) -> Result<bool, MetaError> {
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let reference =
                        file::Entity::find().filter(file::Column::BlobId.eq(blob_id)).one(transaction);
                    if reference.await?.is_some() {
                        return Ok(false);
                    }
                    blob::Entity::update_many()
                        .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
                        .col_expr(blob::Column::Md5, Expr::value(None::<Vec<u8>>))
                        .col_expr(blob::Column::Blake3, Expr::value(None::<Vec<u8>>))
                        .filter(blob::Column::Id.eq(blob_id))
                        .exec(transaction)
                        .await?;
                    Ok(true)
                })
            })
            .await
    }
}
