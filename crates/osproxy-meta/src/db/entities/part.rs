//! The table of parts.

use sea_orm::entity::prelude::*;

/// One write of a part. Among the writes of one part number, at most one has received bytes
/// (`size`) and is in state `writing`, `partial` or `stored`.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "parts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    /// The blob that the part belongs to.
    pub blob_id: i64,
    /// Part number, 1-based.
    pub number: i32,
    pub state: State,
    pub object_key: String,
    /// Durable bytes; 0 until the part is stored or suspended. While a suspended part is continued,
    /// the bytes that were durable before.
    pub size: i64,
    /// Computed MD5, if requested; set once stored.
    pub md5: Option<Vec<u8>>,
    /// MIME type detected from the first bytes of the part. Used only for part 1.
    pub sniffed: Option<String>,
    pub created_at: i64,
    /// The process that received the part; `None` if imported.
    pub written_by: Option<String>,
    /// The store's tag of this part of a multipart upload; empty until the part is written. `None`
    /// if the part has its own object.
    pub tag: Option<String>,
    /// BLAKE3 of the durable bytes. If the part layout was fixed before the upload and has several
    /// parts, this is a subtree hash. The subtree hashes of all parts combine to the BLAKE3 of the
    /// content.
    pub piece: Option<Vec<u8>>,
    /// In milliseconds since the Unix epoch; set once stored.
    pub stored_at: Option<i64>,
    /// Checksums that the client sent, in a format of the caller; set once stored.
    pub checksums: Option<String>,
    #[sea_orm(belongs_to, from = "blob_id", to = "id")]
    pub blob: HasOne<super::blob::Entity>,
}

/// State of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// An object may exist under the key, complete or incomplete. Nothing reads it.
    #[sea_orm(string_value = "writing")]
    Writing,
    /// The first `size` bytes are durable; the others were not received yet.
    #[sea_orm(string_value = "partial")]
    Partial,
    /// The bytes are complete, durable and verified.
    #[sea_orm(string_value = "stored")]
    Stored,
    /// The object is being deleted. Afterwards the row becomes `gone` or is deleted.
    #[sea_orm(string_value = "deleting")]
    Deleting,
    /// No object exists under this key, and none will be written.
    #[sea_orm(string_value = "gone")]
    Gone,
}

impl ActiveModelBehavior for ActiveModel {}
