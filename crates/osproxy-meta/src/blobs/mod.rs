//! Blobs: the content of files. Files of one tenant that have the same content share one blob.

pub(crate) mod blake3_tree;
pub(crate) mod deletion;
pub(crate) mod merges;
pub(crate) mod orphan_rows;
pub(crate) mod packs;
pub(crate) mod repair;
pub(crate) mod stored_parts;
pub(crate) mod verification;

use std::sync::Arc;

use osproxy_storage::{Digests, Key};
use osproxy_types::tenant::Tenant;
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, ExprTrait, QueryFilter, QueryOrder,
    sea_query::{Expr, Func},
};

use crate::MetaError;
use crate::{
    ExpectedDigests, NodeStores, boxed_future,
    db::{database::Database, entities::blob},
    files::rows::{decode_key, decode_part_size},
};

/// Handle for blobs: lookup by digest, merging, verification, deletion, and stored parts.
#[derive(Clone)]
pub struct BlobDb {
    pub(crate) db: Arc<Database>,
}

/// A blob whose content is complete, durable and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Blob id.
    pub id: i64,
    /// Name of the store that holds its object.
    pub store: String,
    /// Key of its object in that store.
    pub key: Key,
    /// Computed digests.
    pub digests: Digests,
    /// MIME type detected from the first bytes.
    pub detected_type: Option<String>,
}

/// Returns the computed digests of a blob; `None` until its BLAKE3 is recorded.
pub(crate) fn computed_digests(blob: &blob::Model) -> Result<Option<Digests>, DbErr> {
    let (md5, sha256) = (decode_digest(blob.md5.as_ref()), decode_digest(blob.sha256.as_ref()));
    let size = decode_size(blob.id, blob.size)?;
    Ok(decode_digest(blob.blake3.as_ref()).map(|blake3| Digests { size, md5, sha256, blake3 }))
}

/// Converts a database value to a digest; `None` if it is missing or has the wrong length.
pub(crate) fn decode_digest<const N: usize>(bytes: Option<&Vec<u8>>) -> Option<[u8; N]> {
    bytes.and_then(|bytes| bytes.as_slice().try_into().ok())
}

/// Converts a digest to a database value.
pub(crate) fn encode_digest<const N: usize>(digest: Option<[u8; N]>) -> Option<Vec<u8>> {
    digest.map(|digest| digest.to_vec())
}

pub(crate) fn decode_size(blob_id: i64, size: i64) -> Result<u64, DbErr> {
    u64::try_from(size).map_err(|_| DbErr::Custom(format!("blob {blob_id} has a negative size")))
}

fn from_row(blob: blob::Model) -> Result<Blob, DbErr> {
    let digests = computed_digests(&blob)?;
    let corrupt = || DbErr::Custom(format!("blob {} has digests but no valid BLAKE3", blob.id));
    Ok(Blob {
        id: blob.id,
        key: decode_key(&blob.object_key)?,
        digests: digests.ok_or_else(corrupt)?,
        store: blob.backend,
        detected_type: blob.sniffed,
    })
}

/// Builds the write intent of an object: the row that is committed before the object is written.
pub(crate) fn intent_row(
    id: i64,
    tenant: &str,
    store: &str,
    object_key: String,
    node_stores: &NodeStores,
) -> blob::ActiveModel {
    blob::ActiveModel {
        id: Set(id),
        tenant: Set(tenant.to_owned()),
        state: Set(blob::State::Writing),
        layout: Set(blob::BlobLayout::Whole),
        backend: Set(store.to_owned()),
        object_key: Set(object_key),
        refs: Set(0),
        size: Set(0),
        claimed_md5: Set(None),
        md5: Set(None),
        blake3: Set(None),
        sniffed: Set(None),
        created_at: Set(node_stores.clock.now_ms()),
        written_by: Set(Some(node_stores.node.clone())),
        upload_id: Set(None),
        native_highest: Set(None),
        native_small: Set(None),
        part_size: Set(None),
        slot_size: Set(None),
        sha256: Set(None),
        claimed_sha256: Set(None),
        claimed_blake3: Set(None),
    }
}

/// Size of the slots of a blob's preallocated file, in bytes; `None` if it cannot have one.
pub(crate) fn slot_size(blob: &blob::Model) -> Option<u64> {
    decode_part_size(blob.part_size.or(blob.slot_size))
}

/// Adds `count` references to a stored blob, and records the MD5 and SHA-256 from `computed` unless
/// the row has them already. Returns `false` and changes nothing if the blob is gone or not in
/// state `stored`.
pub(crate) async fn add_references(
    transaction: &DatabaseTransaction,
    id: i64,
    count: i32,
    computed: Option<&Digests>,
) -> Result<bool, DbErr> {
    let mut update = blob::Entity::update_many();
    let (md5, sha256) = computed.map_or((None, None), |digests| (digests.md5, digests.sha256));
    for (column, digest) in
        [(blob::Column::Md5, encode_digest(md5)), (blob::Column::Sha256, encode_digest(sha256))]
    {
        if let Some(digest) = digest {
            let known_or_new = Func::coalesce([Expr::col(column), Expr::value(digest)]);
            update = update.col_expr(column, known_or_new.into());
        }
    }
    let updated = update
        .col_expr(blob::Column::Refs, Expr::col(blob::Column::Refs).add(count))
        .filter(blob::Column::Id.eq(id))
        .filter(blob::Column::State.eq(blob::State::Stored))
        .exec(transaction)
        .await?;
    Ok(updated.rows_affected == 1)
}

/// Filter: blobs of a tenant.
fn owned_by(tenant: &Tenant) -> Expr {
    blob::Column::Tenant.eq(tenant.as_str())
}

impl BlobDb {
    /// Returns the tenant's stored blob with this MD5; the oldest, if there are several.
    #[boxed_future]
    pub async fn by_md5(&self, tenant: &Tenant, md5: [u8; 16]) -> Result<Option<Blob>, MetaError> {
        Ok(self.find(owned_by(tenant).and(blob::Column::Md5.eq(md5.to_vec()))).await?)
    }

    /// Returns the tenant's stored blob with this BLAKE3.
    #[boxed_future]
    pub async fn by_blake3(&self, tenant: &Tenant, blake3: [u8; 32]) -> Result<Option<Blob>, MetaError> {
        Ok(self.find(owned_by(tenant).and(blob::Column::Blake3.eq(blake3.to_vec()))).await?)
    }

    /// Returns the tenant's stored blob with this SHA-256; the oldest, if there are several.
    #[boxed_future]
    pub async fn by_sha256(&self, tenant: &Tenant, sha256: [u8; 32]) -> Result<Option<Blob>, MetaError> {
        Ok(self.find(owned_by(tenant).and(blob::Column::Sha256.eq(sha256.to_vec()))).await?)
    }

    /// Returns the blob with this id if it is stored and verified.
    #[boxed_future]
    pub async fn stored(&self, id: i64) -> Result<Option<Blob>, MetaError> {
        Ok(self.find(blob::Column::Id.eq(id).and(blob::Column::Blake3.is_not_null())).await?)
    }

    async fn find(&self, filter: Expr) -> Result<Option<Blob>, DbErr> {
        let row = blob::Entity::find()
            .filter(filter)
            .filter(blob::Column::State.eq(blob::State::Stored))
            .order_by_asc(blob::Column::Id)
            .one(&self.db.lookups)
            .await?;
        row.map(from_row).transpose()
    }
}

/// Returns the digests that the client claimed.
pub(crate) fn expected_digests(blob: &blob::Model) -> ExpectedDigests {
    ExpectedDigests {
        md5: decode_digest(blob.claimed_md5.as_ref()),
        sha256: decode_digest(blob.claimed_sha256.as_ref()),
        blake3: decode_digest(blob.claimed_blake3.as_ref()),
    }
}
