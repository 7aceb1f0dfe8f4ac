//! BLAKE3 of a blob, combined from the subtree hashes computed while its parts were received.

use osproxy_storage::{DigestSelection, Digests, PartLayout, combine_subtrees};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};

use crate::MetaError;
use crate::{
    Meta,
    blobs::decode_digest,
    db::entities::{blob, part},
    files::rows::part_layout,
};

/// Digests of a part, computed while it was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartDigests {
    /// MD5.
    pub md5: Option<[u8; 16]>,
    /// BLAKE3: the hash of a subtree if the content is divided into several parts, of the part
    /// alone otherwise.
    pub subtree: Option<[u8; 32]>,
    /// Offset of the subtree in the content, if there are several parts.
    pub subtree_offset: Option<u64>,
}

impl PartDigests {
    pub(crate) fn from_row(row: &part::Model, shape: Option<PartLayout>) -> Self {
        let several = shape.filter(|shape| shape.parts() > 1);
        let range = several.and_then(|shape| shape.range(row.number.cast_unsigned()));
        let (md5, piece) = (decode_digest(row.md5.as_ref()), decode_digest(row.piece.as_ref()));
        Self {
            md5,
            subtree: piece,
            subtree_offset: range.filter(|_| piece.is_some()).map(|range| range.start),
        }
    }

    /// Returns the selection of digests that [`matches`](Self::matches) needs.
    pub fn selection(&self) -> DigestSelection {
        DigestSelection { md5: self.md5.is_some(), sha256: false, subtree_offset: self.subtree_offset }
    }

    /// Whether `found`, the digests of some bytes, match. A part without digests matches nothing.
    pub fn matches(&self, found: &Digests) -> bool {
        (self.md5.is_some() || self.subtree.is_some())
            && (self.md5.is_none() || self.md5 == found.md5)
            && self.subtree.is_none_or(|piece| piece == found.blake3)
    }
}

impl Meta {
    /// Returns the BLAKE3 of a blob if it can be combined from its parts, without reading the
    /// bytes.
    pub async fn combined_blake3(&self, blob_id: i64) -> Result<Option<[u8; 32]>, MetaError> {
        match blob::Entity::find_by_id(blob_id).one(&self.reader).await? {
            Some(blob) => Ok(combined_blake3(&self.reader, &blob).await?),
            None => Ok(None),
        }
    }
}

/// Returns the BLAKE3 of a blob whose layout was known in advance, if all its parts are stored.
pub(crate) async fn combined_blake3(
    connection: &impl ConnectionTrait,
    blob: &blob::Model,
) -> Result<Option<[u8; 32]>, DbErr> {
    let Some(shape) = part_layout(Some(blob.size), blob.part_size) else {
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
    let in_order = rows.iter().zip(1..).all(|((number, _), expected)| *number == expected);
    let pieces: Option<Vec<[u8; 32]>> = rows.iter().map(|(_, piece)| decode_digest(piece.as_ref())).collect();
    Ok(match pieces.as_deref() {
        Some(pieces) if !in_order || pieces.len() as u64 != shape.parts() => None,
        // A single part is hashed as a whole, not as a subtree.
        Some([whole]) => Some(*whole),
        Some(pieces) => combine_subtrees(pieces, shape.part_size, shape.size),
        None => None,
    })
}

/// Deletes the part rows of a blob that lies in one object; call this once the blob's own digest is
/// recorded.
pub(crate) async fn delete_part_rows(transaction: &DatabaseTransaction, blob_id: i64) -> Result<(), DbErr> {
    part::Entity::delete_many()
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.is_in([part::State::Stored, part::State::Gone]))
        .exec(transaction)
        .await?;
    Ok(())
}
