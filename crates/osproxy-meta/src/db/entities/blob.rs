//! The table of blobs.

use sea_orm::entity::prelude::*;

/// Content that any number of files of one tenant share.
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
    /// preallocated file, or else of the object of the first merge; empty if there is none.
    pub object_key: String,
    /// Number of stored files that share the blob. Updated in the same transaction as those files.
    pub refs: i32,
    /// Size in bytes; 0 until the size is announced or the content is complete.
    pub size: i64,
    /// MD5 claimed by the client; set only for content that was uploaded in parts or imported.
    pub claimed_md5: Option<Vec<u8>>,
    /// Computed MD5, if requested; set once verified.
    pub md5: Option<Vec<u8>>,
    /// Computed BLAKE3; set once verified. Unique within a tenant.
    pub blake3: Option<Vec<u8>>,
    /// MIME type detected from the first bytes.
    pub sniffed: Option<String>,
    pub created_at: i64,
    /// The process that created the row; `None` if imported.
    pub written_by: Option<String>,
    /// The store's id of the multipart upload or preallocated file under `object_key`. `None` if no
    /// upload exists; empty from before the upload is begun until its id is known. Reset only after
    /// the upload no longer exists.
    pub upload_id: Option<String>,
    /// Highest part number ever assigned to the multipart upload.
    pub native_highest: Option<i32>,
    /// Number of the part below the store's minimum size, which must be the last part of the
    /// multipart upload. 0 if the multipart upload accepts no more parts.
    pub native_small: Option<i32>,
    /// Size of each part except the last, in bytes, if fixed before the upload.
    pub part_size: Option<i64>,
    /// If `part_size` is not set: size of the slots of the preallocated file, in bytes. Parts that
    /// do not fit are separate objects.
    pub slot_size: Option<i64>,
    /// Computed SHA-256, if requested; set once verified.
    pub sha256: Option<Vec<u8>>,
    /// SHA-256 and BLAKE3 claimed by the client; set only for content that was uploaded in parts.
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
    /// An object may exist under the key, complete or incomplete. Nothing reads it.
    #[sea_orm(string_value = "writing")]
    Writing,
    /// Parts are being received.
    #[sea_orm(string_value = "receiving")]
    Receiving,
    /// Every byte is durable and readable.
    #[sea_orm(string_value = "stored")]
    Stored,
    /// Every byte is durable, but nothing reads it: processing found it dangerous.
    #[sea_orm(string_value = "quarantined")]
    Quarantined,
    /// The object is being deleted; the row is deleted afterwards.
    #[sea_orm(string_value = "deleting")]
    Deleting,
}

/// How a blob's bytes are stored.
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
