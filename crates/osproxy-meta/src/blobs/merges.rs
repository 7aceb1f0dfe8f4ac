//! Merges of parts into one object.

use osproxy_storage::{Digests, Key};
use osproxy_types::tenant::Tenant;
use sea_orm::{ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, sea_query::Expr};

use crate::MetaError;
use crate::{
    BlobDb, ExpectedDigests, NodeStores,
    blobs::{self, encode_digest},
    boxed_future,
    db::{
        entities::{blob, file},
        write_batcher::TxEnd,
    },
    files::rows::decode_key,
};

/// A blob stored in parts, and the object that will replace them.
#[derive(Clone, Debug)]
pub struct MergeIntent {
    /// Id of the write intent: the row that names the object to be written.
    pub intent_id: i64,
    /// Whether some parts are in the store's multipart upload, or in the object made from that
    /// upload. If so, [`BlobDb::finish_merge`] keeps the row of the write intent and changes its
    /// key to the key of the multipart object. The sweep then removes the multipart object.
    pub has_multipart: bool,
    /// The store of the parts; the object is written there too.
    pub store: String,
    /// The owner of the files.
    pub tenant: Tenant,
    /// Key of the object to be written. No other write uses this key.
    pub key: Key,
    /// Size of all parts together, in bytes.
    pub size: u64,
    /// The digests expected by the client.
    pub expected: ExpectedDigests,
}

/// A blob stored in one object.
#[derive(Clone, Debug)]
pub struct WholeBlob {
    /// The store of the object, and of any parts not removed yet.
    pub store: String,
    /// Key of the object.
    pub key: Key,
    /// Size in bytes.
    pub size: u64,
}

/// Outcome of [`BlobDb::begin_merge`].
#[derive(Clone, Debug)]
pub enum BeginMergeOutcome {
    /// The blob has parts to merge.
    Ready(MergeIntent),
    /// The blob is merged already. Objects of its parts may still exist.
    AlreadyMerged(WholeBlob),
    /// The blob does not exist, or is being deleted.
    Gone,
}

/// Outcome of a merge, of a verification, or of handling content that is a duplicate, wrong or
/// lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeOutcome {
    /// The change is committed.
    Stored,
    /// Another blob with the same content appeared, or the blob to share disappeared. The caller
    /// searches again for a blob to share.
    Conflict,
    /// Another task finished first, or the blob is gone.
    Superseded,
    /// The sweep has marked the write intent for deletion, or removed it.
    Swept,
}

impl BlobDb {
    /// Begins to merge the parts of a blob: records a write intent for the object to be written.
    /// The object's key is derived from the blob's own id if no object has used that key, otherwise
    /// from `fallback_id`. `fallback_id` must be unused; it becomes the id of the intent.
    #[boxed_future]
    pub async fn begin_merge(&self, blob_id: i64, fallback_id: i64) -> Result<BeginMergeOutcome, MetaError> {
        let node_stores = self.db.node_stores.clone();
        self.db
            .write(move |transaction| {
                let node_stores = node_stores.clone();
                Box::pin(async move { begin(transaction, blob_id, fallback_id, &node_stores).await })
            })
            .await
    }

    /// Returns a stored blob in one object; `None` if the blob is in parts or in another state.
    #[boxed_future]
    pub async fn whole(&self, blob_id: i64) -> Result<Option<WholeBlob>, MetaError> {
        let blob = blob::Entity::find_by_id(blob_id)
            .filter(blob::Column::State.eq(blob::State::Stored))
            .filter(blob::Column::Layout.eq(blob::BlobLayout::Whole));
        let blob = blob.one(&self.db.lookups).await?;
        Ok(blob.map(whole_blob).transpose()?)
    }

    /// Whether the parts of a blob are its content, also in quarantine.
    #[boxed_future]
    pub async fn is_in_parts(&self, blob_id: i64) -> Result<bool, MetaError> {
        let blob = blob::Entity::find_by_id(blob_id)
            .filter(blob::Column::State.is_in([blob::State::Stored, blob::State::Quarantined]))
            .filter(blob::Column::Layout.eq(blob::BlobLayout::Parts));
        Ok(blob.one(&self.db.lookups).await?.is_some())
    }

    /// Makes the object of `intent` the content of the blob. The object must be published and
    /// durable. Returns `Conflict` if another blob has the same content.
    #[boxed_future]
    pub async fn finish_merge(
        &self,
        blob_id: i64,
        intent: &MergeIntent,
        digests: Digests,
    ) -> Result<MergeOutcome, MetaError> {
        let (intent_id, key) = (intent.intent_id, intent.key.to_string());
        let outcome = self
            .db
            .write_or_rollback(move |transaction| {
                let key = key.clone();
                Box::pin(async move {
                    if !consume_intent(transaction, intent_id, blob_id).await? {
                        return Ok(TxEnd::Rollback(MergeOutcome::Swept));
                    }
                    let merged = blob::Entity::update_many()
                        .col_expr(blob::Column::Layout, Expr::value(blob::BlobLayout::Whole))
                        .col_expr(blob::Column::ObjectKey, Expr::value(key))
                        .col_expr(blob::Column::UploadId, Expr::value(None::<String>))
                        .col_expr(blob::Column::Md5, Expr::value(encode_digest(digests.md5)))
                        .col_expr(blob::Column::Sha256, Expr::value(encode_digest(digests.sha256)))
                        .col_expr(blob::Column::Blake3, Expr::value(digests.blake3.to_vec()))
                        .filter(blob::Column::Id.eq(blob_id))
                        .filter(blob::Column::State.eq(blob::State::Stored))
                        .filter(blob::Column::Layout.eq(blob::BlobLayout::Parts))
                        .exec(transaction)
                        .await?;
                    Ok(match merged.rows_affected {
                        0 => TxEnd::Rollback(MergeOutcome::Superseded),
                        _ => TxEnd::Commit(MergeOutcome::Stored),
                    })
                })
            })
            .await;
        map_unique_conflict(outcome)
    }
}

/// Maps a conflict on the unique BLAKE3 index to the outcome `Conflict`: another blob has the same
/// content.
pub(super) fn map_unique_conflict(
    outcome: Result<MergeOutcome, MetaError>,
) -> Result<MergeOutcome, MetaError> {
    match outcome {
        Err(MetaError::Conflict(_)) => Ok(MergeOutcome::Conflict),
        outcome => outcome,
    }
}

fn whole_blob(blob: blob::Model) -> Result<WholeBlob, DbErr> {
    let size = blobs::decode_size(blob.id, blob.size)?;
    Ok(WholeBlob { key: decode_key(&blob.object_key)?, size, store: blob.backend })
}

async fn begin(
    transaction: &DatabaseTransaction,
    blob_id: i64,
    fallback_id: i64,
    node_stores: &NodeStores,
) -> Result<BeginMergeOutcome, DbErr> {
    let Some(blob) = blob::Entity::find_by_id(blob_id).one(transaction).await? else {
        return Ok(BeginMergeOutcome::Gone);
    };
    match (blob.state, blob.layout) {
        (blob::State::Stored, blob::BlobLayout::Parts) => {}
        (blob::State::Stored, blob::BlobLayout::Whole) => {
            return Ok(BeginMergeOutcome::AlreadyMerged(whole_blob(blob)?));
        }
        _ => return Ok(BeginMergeOutcome::Gone),
    }
    let name = file::Entity::find().filter(file::Column::BlobId.eq(blob_id)).one(transaction).await?;
    let name = name.map(|file| file.name).unwrap_or_default();
    let key = |id| node_stores.whole_key(&blob.backend, &name, id);
    // No key is written twice: only the first merge, which finds no key in the row, uses the key
    // with the blob's id.
    let own_key = key(blob_id);
    let claimed = blob::Entity::update_many()
        .col_expr(blob::Column::ObjectKey, Expr::value(own_key.as_str()))
        .filter(blob::Column::Id.eq(blob_id))
        .filter(blob::Column::ObjectKey.eq(""))
        .exec(transaction)
        .await?;
    let key = if claimed.rows_affected == 1 { own_key } else { key(fallback_id) };
    let row = blobs::intent_row(fallback_id, &blob.tenant, &blob.backend, key.to_string(), node_stores);
    blob::Entity::insert(row).exec_without_returning(transaction).await?;
    Ok(BeginMergeOutcome::Ready(MergeIntent {
        intent_id: fallback_id,
        tenant: Tenant::from_db(&blob.tenant),
        key: decode_key(key.as_str())?,
        size: blobs::decode_size(blob.id, blob.size)?,
        expected: blobs::expected_digests(&blob),
        has_multipart: blob.upload_id.is_some(),
        store: blob.backend,
    }))
}

/// Removes the write intent of the object that is about to become the blob's content. If the blob
/// has, or may have, a multipart upload, the intent row stays: it gets the key of that upload's
/// object and is marked for deletion. Returns `false` if the sweep has already marked the intent
/// for deletion or removed it.
async fn consume_intent(
    transaction: &DatabaseTransaction,
    intent_id: i64,
    blob_id: i64,
) -> Result<bool, DbErr> {
    let blob = blob::Entity::find_by_id(blob_id).one(transaction).await?;
    if let Some(blob) = blob.filter(|blob| blob.upload_id.is_some()) {
        let marked = blob::Entity::update_many()
            .col_expr(blob::Column::State, Expr::value(blob::State::Deleting))
            .col_expr(blob::Column::ObjectKey, Expr::value(blob.object_key))
            .col_expr(blob::Column::PartSize, Expr::value(blob.part_size))
            .col_expr(blob::Column::SlotSize, Expr::value(blob.slot_size))
            .filter(blob::Column::Id.eq(intent_id))
            .filter(blob::Column::State.eq(blob::State::Writing))
            .exec(transaction)
            .await?;
        return Ok(marked.rows_affected == 1);
    }
    let deleted = blob::Entity::delete_many()
        .filter(blob::Column::Id.eq(intent_id))
        .filter(blob::Column::State.eq(blob::State::Writing))
        .exec(transaction)
        .await?;
    Ok(deleted.rows_affected == 1)
}
