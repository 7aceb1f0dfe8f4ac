//! What is left to delete of a blob.

use osproxy_storage::Key;
use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, sea_query::Expr};

use crate::MetaError;
use crate::{
    BlobDb,
    blobs::stored_parts::own_key,
    db::entities::{blob, part},
    files::rows::{decode_key, decode_part_size},
};

/// What is left of a blob that is being deleted.
#[derive(Clone, Debug)]
pub struct DeletingBlob {
    /// The store that holds all of it.
    pub store: String,
    /// Row ids of its parts, with the key of each part that is an object of its own.
    pub parts: Vec<(i64, Option<Key>)>,
    /// Key of the blob's object, or of the object that its multipart upload would become.
    pub object: Option<Key>,
    /// Size of each part except the last, in bytes, if the layout was known before the parts
    /// arrived.
    pub part_size: Option<u64>,
}

impl BlobDb {
    /// Returns what is left of a blob in state `deleting`; `None` if there is no such blob. Marks
    /// all its parts for deletion; no new part can be added.
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
    // The object of a running merge has a row of its own.
    let has_object = blob.layout == blob::BlobLayout::Whole || blob.upload_id.is_some();
    let object = has_object.then(|| decode_key(&blob.object_key)).transpose()?;
    Ok(Some(DeletingBlob { store: blob.backend, parts, object, part_size: decode_part_size(blob.part_size) }))
}
