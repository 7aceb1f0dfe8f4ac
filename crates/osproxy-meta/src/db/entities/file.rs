//! The table of files.

use sea_orm::entity::prelude::*;

/// A file or upload session.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "files")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub uid: i64,
    pub tenant: String,
    pub name: String,
    pub state: State,
    /// Its blob: the content once stored, the blob that receives the parts before.
    pub blob_id: Option<i64>,
    /// Number of parts it was uploaded in, if any; set on completion.
    pub part_count: Option<i32>,
    /// MIME type; empty until known: set once stored, or earlier if announced.
    pub content_type: String,
    /// When the upload expires; for expired, deleted and corrupt files, when that happened. In
    /// milliseconds since the Unix epoch.
    pub expires_at: i64,
    pub created_at: i64,
    /// When the content became complete, in milliseconds since the Unix epoch.
    pub stored_at: Option<i64>,
    /// Total size in bytes, as announced.
    pub announced_size: Option<i64>,
    /// Size of each part except the last, in bytes, for content of announced size.
    pub part_size: Option<i64>,
    /// Expected digests, as announced.
    pub claimed_md5: Option<Vec<u8>>,
    pub claimed_sha256: Option<Vec<u8>>,
    pub claimed_blake3: Option<Vec<u8>>,
    /// 1 until the file expires or is deleted, then 0: listings without a state filter use it.
    pub listed: i32,
    /// Category of the name.
    pub category: String,
    /// First bytes of the name, for prefix search and an order that is the same on every database.
    pub name_start: Option<Vec<u8>>,
    /// Metadata set by the owner, a JSON object of strings; `None` if empty.
    #[sea_orm(column_type = "Text", nullable)]
    pub metadata: Option<String>,
    /// Links issued before this time are revoked. In seconds since the Unix epoch; `None`: no link
    /// is revoked.
    pub links_from: Option<i64>,
    /// The process that completed it.
    pub stored_by: Option<String>,
    /// The blob when the content became complete; `blob_id` changes if it turns out to be a
    /// duplicate.
    pub received_as: Option<i64>,
    /// When the first part was started and the last one stored, in milliseconds since the Unix
    /// epoch. Set on completion, because the part rows are deleted.
    pub received_from: Option<i64>,
    pub received_until: Option<i64>,
    /// Number of processes that received parts.
    pub received_nodes: Option<i32>,
    /// Bytes the tenant is charged for the content: announced or received during the upload, then
    /// its size.
    pub charged: i64,
    /// Bytes of the stored parts, during the upload.
    pub received: i64,
    /// MIME type that the content must have, or a family such as `image/*`, according to the last
    /// link used to upload a part.
    pub required_type: Option<String>,
    /// Bytes the tenant is charged for the row itself.
    pub record_bytes: i64,
    #[sea_orm(belongs_to, from = "blob_id", to = "id")]
    pub blob: HasOne<super::blob::Entity>,
}

/// State of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// Created; nothing received.
    #[sea_orm(string_value = "pending")]
    Pending,
    /// Content is being received.
    #[sea_orm(string_value = "receiving")]
    Receiving,
    /// The client has declared all parts complete; the store is completing its multipart upload.
    #[sea_orm(string_value = "completing")]
    Completing,
    /// Complete and readable; the content never changes again.
    #[sea_orm(string_value = "stored")]
    Stored,
    /// Not completed in time.
    #[sea_orm(string_value = "expired")]
    Expired,
    /// Complete, but the content is not what the client or a link requires.
    #[sea_orm(string_value = "corrupt")]
    Corrupt,
    /// Deleted by a client.
    #[sea_orm(string_value = "deleted")]
    Deleted,
}

impl ActiveModelBehavior for ActiveModel {}
