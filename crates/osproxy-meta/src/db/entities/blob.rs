//! The table of blobs.

use sea_orm::entity::prelude::*;

/// Content, stored once per tenant however many files share it.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "blobs")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    pub tenant: String,
    pub state: State,
    pub layout: BlobLayout,
    /// Name of the store.
    pub backend: String,
    /// Key of the whole object. While the layout is `parts`: key of the multipart upload or
    /// preallocated object, or of the first merge; empty if neither exists.
    pub object_key: String,
    /// Number of files that share it; updated in the transaction that creates or deletes the file.
    pub refs: i32,
    /// Bytes; set once stored, or earlier if announced.
    pub size: i64,
    /// Claimed by the client, for content uploaded in parts.
    pub claimed_md5: Option<Vec<u8>>,
    /// Computed, if requested; set once verified.
    pub md5: Option<Vec<u8>>,
    /// Computed; set once verified. Unique within a tenant.
    pub blake3: Option<Vec<u8>>,
    /// MIME type detected from the first bytes.
    pub sniffed: Option<String>,
    pub created_at: i64,
    /// The process that created the row; `None` if imported.
    pub written_by: Option<String>,
    /// The store's id of the multipart upload or preallocated file under `object_key`; empty until
    /// the id is known. Set before an upload may exist, and reset only after it no longer does.
    pub upload_id: Option<String>,
    /// Highest part number ever assigned to the multipart upload.
    pub native_highest: Option<i32>,
    /// Number of the part that is smaller than the store's minimum, and so must be the last.
    pub native_small: Option<i32>,
    /// Size of each part except the last, in bytes, if fixed before the upload.
    pub part_size: Option<i64>,
    /// Computed, if requested; set once verified.
    pub sha256: Option<Vec<u8>>,
    /// Claimed by the client, for content uploaded in parts.
    pub claimed_sha256: Option<Vec<u8>>,
    pub claimed_blake3: Option<Vec<u8>>,
    #[sea_orm(has_many)]
    pub files: HasMany<super::file::Entity>,
    #[sea_orm(has_many)]
    pub parts: HasMany<super::part::Entity>,
}

/// State of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// An object may exist under the key, complete or not; nobody reads it.
    #[sea_orm(string_value = "writing")]
    Writing,
    /// Parts are being received.
    #[sea_orm(string_value = "receiving")]
    Receiving,
    /// Every byte is durable and readable.
    #[sea_orm(string_value = "stored")]
    Stored,
    /// The object is being deleted, then the row.
    #[sea_orm(string_value = "deleting")]
    Deleting,
}

/// Location of a blob's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum BlobLayout {
    /// One object.
    #[sea_orm(string_value = "whole")]
    Whole,
    /// Several parts.
    #[sea_orm(string_value = "parts")]
    Parts,
}

impl ActiveModelBehavior for ActiveModel {}
