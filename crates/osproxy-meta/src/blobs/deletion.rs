//! Blobs in state `deleting`, and the objects and rows that remain to be removed.

use osproxy_storage::Key;
use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, sea_query::Expr};

use crate::MetaError;
use crate::{
    BlobDb,
    blobs::{self, stored_parts::own_key},
    boxed_future,
    db::entities::{blob, part},
    files::rows::decode_key,
};

/// A blob in state `deleting`: the objects and rows to remove.
#[derive(Clone, Debug)]
pub struct DeletingBlob {
    /// The store of all its objects.
    pub store: String,
    /// Row id of each part, and the key of the part's object. The key is `None` if the part does
    /// not have its own object.
    pub parts: Vec<(i64, Option<Key>)>,
    /// Key of the blob's object, or of the object that its multipart upload would become.
    pub object: Option<Key>,
    /// Size of the slots of its preallocated file, in bytes, if it can have one.
    pub slot_size: Option<u64>,
}

impl BlobDb {
    /// Returns the objects and rows that are left of a blob in state `deleting`, and marks all its
    /// parts for deletion. Returns `None` if the blob is not in this state. No part can be added to
    /// a blob in this state.
    #[boxed_future]
    pub async fn deleting(&self, blob_id: i64) -> Result<Option<DeletingBlob>, MetaError> {
        self.db.write(move |transaction| Box::pin(deleting_blob(transaction, blob_id))).await
    }
}

async fn deleting_blob(
    transaction: &DatabaseTransaction,
    blob_id: i64,
) -> Result<Option<DeletingBlob>, DbErr> {
    let blob = blob::Entity::find_by_id(blob_id).one(transaction).await?;
    let Some(blob) = blob.filter(|blob| blob.state == blob::State::Deleting) else {
        return Ok(None);
    };
    part::Entity::update_many()
        .col_expr(part::Column::State, Expr::value(part::State::Deleting))
        .filter(part::Column::BlobId.eq(blob_id))
        .exec(transaction)
        .await?;
    let rows = part::Entity::find().filter(part::Column::BlobId.eq(blob_id)).all(transaction).await?;
    let parts: Result<Vec<_>, DbErr> = rows.iter().map(|part| Ok((part.id, own_key(part)?))).collect();
    let parts = parts?;
    // The key of a blob in parts can be the key of a merge. The object of a merge has its own row,
    // the write intent, so the object is not removed with the blob.
    let has_object = blob.layout == blob::BlobLayout::Whole || blob.upload_id.is_some();
    let object = has_object.then(|| decode_key(&blob.object_key)).transpose()?;
    let slot_size = blobs::slot_size(&blob);
    Ok(Some(DeletingBlob { store: blob.backend, parts, object, slot_size }))
}
