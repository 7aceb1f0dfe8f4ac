//! The BLAKE3 of content, combined of what was computed of its parts when they came.

use osproxy_storage::{Digests, Shape, Wanted, combine};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};

use super::{
    Meta,
    blobs::recorded_digest,
    entities::{blob, part},
    files::shape,
};

/// What is known of the bytes of a part from when they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// MD5.
    pub md5: Option<[u8; 16]>,
    /// BLAKE3, as that of a piece where it is one.
    pub piece: Option<[u8; 32]>,
    /// Where in the whole the piece begins, if there are several.
    pub piece_at: Option<u64>,
}

impl Fingerprint {
    pub(super) fn of(row: &part::Model, shape: Option<Shape>) -> Self {
        let several = shape.filter(|shape| shape.parts() > 1);
        let range = several.and_then(|shape| shape.range(row.number.cast_unsigned()));
        let (md5, piece) = (recorded_digest(row.md5.as_ref()), recorded_digest(row.piece.as_ref()));
        Self { md5, piece, piece_at: range.filter(|_| piece.is_some()).map(|range| range.start) }
    }

    /// What has to be computed to know whether bytes are those.
    pub fn wanted(&self) -> Wanted {
        Wanted { md5: self.md5.is_some(), sha256: false, piece_at: self.piece_at }
    }

    /// Whether bytes that have these digests are those.
    pub fn is_of(&self, found: &Digests) -> bool {
        (self.md5.is_some() || self.piece.is_some())
            && (self.md5.is_none() || self.md5 == found.md5)
            && self.piece.is_none_or(|piece| piece == found.blake3)
    }
}

impl Meta {
    /// The BLAKE3 of a blob, if it can be told without reading it.
    pub async fn combined_digest(&self, blob_id: i64) -> Result<Option<[u8; 32]>, DbErr> {
        match blob::Entity::find_by_id(blob_id).one(&self.reader).await? {
            Some(blob) => combined(&self.reader, &blob).await,
            None => Ok(None),
        }
    }
}

/// The BLAKE3 of a blob whose parts had their places from the start, if all of them are there.
pub(super) async fn combined(
    connection: &impl ConnectionTrait,
    blob: &blob::Model,
) -> Result<Option<[u8; 32]>, DbErr> {
    let Some(shape) = shape(Some(blob.size), blob.part_size) else {
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
    let pieces: Option<Vec<[u8; 32]>> =
        rows.iter().map(|(_, piece)| recorded_digest(piece.as_ref())).collect();
    Ok(match pieces.as_deref() {
        Some(pieces) if !in_order || pieces.len() as u64 != shape.parts() => None,
        // It was computed as that of the whole.
        Some([whole]) => Some(*whole),
        Some(pieces) => combine(pieces, shape.part_size, shape.size),
        None => None,
    })
}

/// Removes what is known of the parts of a blob that are in its one object, when the blob's own digest is recorded.
pub(super) async fn forget(transaction: &DatabaseTransaction, blob_id: i64) -> Result<(), DbErr> {
    part::Entity::delete_many()
        .filter(part::Column::BlobId.eq(blob_id))
        .filter(part::Column::State.is_in([part::State::Stored, part::State::Gone]))
        .exec(transaction)
        .await?;
    Ok(())
}
