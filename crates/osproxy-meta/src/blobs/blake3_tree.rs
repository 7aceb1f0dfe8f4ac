//! The BLAKE3 of a blob, combined from the subtree hashes of its parts.

use osproxy_storage::{DigestSelection, Digests, PartLayout, combine_subtrees};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};

use crate::MetaError;
use crate::{
    BlobDb,
    blobs::decode_digest,
    boxed_future,
    db::entities::{blob, part},
    files::rows::part_layout,
};

/// Digests of a part, computed while it was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartDigests {
    /// MD5.
    pub md5: Option<[u8; 16]>,
    /// BLAKE3. If the part layout was fixed before the upload and has several parts, this is the
    /// hash of a subtree; otherwise it is the BLAKE3 of the part alone.
    pub subtree: Option<[u8; 32]>,
    /// Offset of the subtree in the content, in bytes; `None` if `subtree` is not the hash of a
    /// subtree.
    pub subtree_offset: Option<u64>,
}

impl PartDigests {
    pub(crate) fn from_row(row: &part::Model, layout: Option<PartLayout>) -> Self {
        let multi_part_layout = layout.filter(|layout| layout.parts() > 1);
        let range = multi_part_layout.and_then(|layout| layout.range(row.number.cast_unsigned()));
        let (md5, subtree) = (decode_digest(row.md5.as_ref()), decode_digest(row.piece.as_ref()));
        Self { md5, subtree, subtree_offset: range.filter(|_| subtree.is_some()).map(|range| range.start) }
    }

    /// Returns the digest selection that [`matches`](Self::matches) needs.
    pub fn selection(&self) -> DigestSelection {
        DigestSelection { md5: self.md5.is_some(), sha256: false, subtree_offset: self.subtree_offset }
    }

    /// Whether the recorded digests equal those in `computed`. A part without digests matches
    /// nothing.
    pub fn matches(&self, computed: &Digests) -> bool {
        (self.md5.is_some() || self.subtree.is_some())
            && (self.md5.is_none() || self.md5 == computed.md5)
            && self.subtree.is_none_or(|subtree| subtree == computed.blake3)
    }
}

impl BlobDb {
    /// Combines the BLAKE3 of a blob from the digests of its parts, without reading the bytes.
    /// Returns `None` if the blob is gone, its layout was not fixed before the upload, or a part or
    /// the digest of a part is missing.
    #[boxed_future]
    pub async fn combined_blake3(&self, blob_id: i64) -> Result<Option<[u8; 32]>, MetaError> {
        match blob::Entity::find_by_id(blob_id).one(&self.db.reader).await? {
            Some(blob) => Ok(combined_blake3(&self.db.reader, &blob).await?),
            None => Ok(None),
        }
    }
}

/// Like [`BlobDb::combined_blake3`], for a row that the caller has read.
pub(crate) async fn combined_blake3(
    connection: &impl ConnectionTrait,
    blob: &blob::Model,
) -> Result<Option<[u8; 32]>, DbErr> {
    let Some(layout) = part_layout(Some(blob.size), blob.part_size) else {
        return Ok(None);
    };
    let rows = part::Entity::find()
        .select_only()
        .column(part::Column::Number)
        .column(part::Column::Piece)
        .filter(part::Column::BlobId.eq(blob.id))
        .filter(part::Column::State.eq(part::State::Stored))
        .order_by_asc(part::Column::Number);
    let rows: Vec<(i32, Option<Vec<u8>>)> = rows.into_tuple().all(connection).await?;
    let is_contiguous = rows.iter().zip(1..).all(|((number, _), expected)| *number == expected);
    let subtrees: Option<Vec<[u8; 32]>> =
        rows.iter().map(|(_, subtree)| decode_digest(subtree.as_ref())).collect();
    Ok(match subtrees.as_deref() {
        Some(subtrees) if !is_contiguous || subtrees.len() as u64 != layout.parts() => None,
        // A single part is hashed as a whole, not as a subtree.
        Some([whole]) => Some(*whole),
        Some(subtrees) => combine_subtrees(subtrees, layout.part_size, layout.size),
        None => None,
    })
}

/// Deletes the rows of the stored and gone parts of a blob that lies in one object. Call this in
/// the transaction that records the BLAKE3 of the blob.
pub(crate) async fn delete_part_rows(transaction: &DatabaseTransaction, blob_id: i64) -> Result<(), DbErr> {
    part::Entity::delete_many()
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.is_in([part::State::Stored, part::State::Gone]))
        .exec(transaction)
        .await?;
    Ok(())
}
