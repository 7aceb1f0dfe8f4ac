//! Conversions from database rows to the types for files and their content.

use osproxy_storage::{Key, PartLayout};
use osproxy_types::{content_type, tenant::Tenant, uid::Uid};
use sea_orm::{ColumnTrait, DbErr, sea_query::Expr};

use crate::{
    ContentLayout, ExpectedDigests, StoredContent, StoredFile,
    blobs::{self, decode_digest},
    db::entities::{blob, file},
};

/// Returns the expected digests that the client announced for a file.
pub(crate) fn expected_digests(file: &file::Model) -> ExpectedDigests {
    ExpectedDigests {
        md5: decode_digest(file.claimed_md5.as_ref()),
        sha256: decode_digest(file.claimed_sha256.as_ref()),
        blake3: decode_digest(file.claimed_blake3.as_ref()),
    }
}

/// Part layout from the recorded total size and part size; `None` if either is unknown.
pub(crate) fn part_layout(size: Option<i64>, part_size: Option<i64>) -> Option<PartLayout> {
    let size = size.and_then(|size| u64::try_from(size).ok())?;
    Some(PartLayout { size, part_size: self::decode_part_size(part_size)? })
}

/// Part size from its column; `None` if unset or invalid.
pub(crate) fn decode_part_size(column: Option<i64>) -> Option<u64> {
    column.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0)
}

pub(crate) fn file_from_row(file: file::Model, blob: Option<blob::Model>) -> Result<StoredFile, DbErr> {
    let corrupt = || DbErr::Custom(format!("file {} is stored but its row is incomplete", file.uid));
    let blob = blob.ok_or_else(corrupt)?;
    Ok(StoredFile {
        uid: Uid::from_db(file.uid),
        tenant: Tenant::from_db(&file.tenant),
        content: content_from_row(blob)?,
        stored_at: file.stored_at.ok_or_else(corrupt)?,
        links_valid_from: file.links_from,
        dimensions: file.media.as_deref().and_then(dimensions),
        name: file.name,
        content_type: file.content_type,
    })
}

/// Width and height in a JSON object `media`.
fn dimensions(media: &str) -> Option<(u32, u32)> {
    let media: serde_json::Map<String, serde_json::Value> = serde_json::from_str(media).ok()?;
    let side = |name: &str| u32::try_from(media.get(name)?.as_u64()?).ok();
    Some((side("width")?, side("height")?))
}

pub(crate) fn content_from_row(blob: blob::Model) -> Result<StoredContent, DbErr> {
    Ok(StoredContent {
        blob_id: blob.id,
        size: blobs::decode_size(blob.id, blob.size)?,
        layout: match blob.layout {
            blob::BlobLayout::Whole => ContentLayout::Whole(decode_key(&blob.object_key)?),
            blob::BlobLayout::Parts => ContentLayout::Parts,
        },
        digests: blobs::computed_digests(&blob)?,
        is_utf8: content_type::is_utf8(blob.sniffed.as_deref()),
        store: blob.backend,
        claimed_md5: blob.claimed_md5.and_then(|md5| md5.try_into().ok()),
    })
}

/// Filter: files that refer to this blob; with `None`, files without a blob.
pub(crate) fn has_blob(blob_id: Option<i64>) -> Expr {
    blob_id.map_or_else(|| file::Column::BlobId.is_null(), |id| file::Column::BlobId.eq(id))
}

/// Parses a key from the database.
pub(crate) fn decode_key(key: &str) -> Result<Key, DbErr> {
    Key::parse(key).map_err(|error| DbErr::Custom(format!("{error}: {key:?}")))
}
