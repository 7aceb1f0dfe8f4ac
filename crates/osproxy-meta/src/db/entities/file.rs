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
    /// The blob that receives the parts; once the file is stored, the blob that holds its content.
    pub blob_id: Option<i64>,
    /// Number of parts, if the content was uploaded in parts. Set on completion.
    pub part_count: Option<i32>,
    /// MIME type; empty until it is announced, or else until the content is complete.
    pub content_type: String,
    /// For an open upload: when it expires. For an expired, deleted or corrupt file: when it
    /// entered that state. Unused for a stored file. In milliseconds since the Unix epoch.
    pub expires_at: i64,
    pub created_at: i64,
    /// When the content became complete, in milliseconds since the Unix epoch.
    pub stored_at: Option<i64>,
    /// Total size in bytes, as announced.
    pub announced_size: Option<i64>,
    /// Size of each part except the last, in bytes, if the total size was announced.
    pub part_size: Option<i64>,
    /// Expected digests, as announced.
    pub claimed_md5: Option<Vec<u8>>,
    pub claimed_sha256: Option<Vec<u8>>,
    pub claimed_blake3: Option<Vec<u8>>,
    /// 1 until the file expires or is deleted, then 0; always 0 for a partial upload. Listings
    /// without a state filter show only files whose value is 1.
    pub listed: i32,
    /// Category of the name.
    pub category: String,
    /// First bytes of the name, for prefix search and for an order that is the same on every
    /// database.
    pub name_start: Option<Vec<u8>>,
    /// Metadata set by the owner, a JSON object of strings; `None` if empty.
    #[sea_orm(column_type = "Text", nullable)]
    pub metadata: Option<String>,
    /// Links issued before this time are revoked. In seconds since the Unix epoch; `None`: no link
    /// is revoked.
    pub links_from: Option<i64>,
    /// The process that completed the upload.
    pub stored_by: Option<String>,
    /// Id of the blob that held the content when the upload was completed. `blob_id` differs if
    /// that blob turned out to be a duplicate.
    pub received_as: Option<i64>,
    /// Start of the earliest write of a part (`received_from`) and end of the latest write of a
    /// part (`received_until`), in milliseconds since the Unix epoch. Set on completion, because
    /// the part rows are deleted later.
    pub received_from: Option<i64>,
    pub received_until: Option<i64>,
    /// Number of processes that received parts.
    pub received_nodes: Option<i32>,
    /// Bytes charged to the tenant for the content. During the upload: the announced size, or else
    /// the received bytes. Once stored: the size of the content. 0 after the content is removed.
    pub charged: i64,
    /// Total size of the parts stored during the upload, in bytes.
    pub received: i64,
    /// MIME type, or family such as `image/*`, that the content must have. Taken from the most
    /// recent upload link that requires one type.
    pub required_type: Option<String>,
    /// Bytes charged to the tenant for the row itself.
    pub record_bytes: i64,
    /// The upload grant under which the file was created.
    pub grant_id: Option<i64>,
    /// MIME types or families, separated by commas, one of which the content must have. Set by the
    /// upload grant.
    pub required_types: Option<String>,
    /// For a partial upload whose parts were moved: uid of the final upload that has them now.
    pub final_uid: Option<i64>,
    /// For a final upload: uids of its partial uploads in order, separated by spaces.
    #[sea_orm(column_type = "Text", nullable)]
    pub partial_uids: Option<String>,
    /// What processing has found out about the content, a JSON object.
    #[sea_orm(column_type = "Text", nullable)]
    pub media: Option<String>,
    /// What the steps of processing said, a JSON object.
    #[sea_orm(column_type = "Text", nullable)]
    pub verdict: Option<String>,
    /// The bucket in which the file is an object, or will be one when it is complete.
    pub bucket_id: Option<i64>,
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
    /// A partial upload. Its parts become content only as parts of a final upload; then the state
    /// changes to `deleted`.
    #[sea_orm(string_value = "partial")]
    Partial,
    /// The client has declared all parts complete, and the store is completing its multipart
    /// upload.
    #[sea_orm(string_value = "completing")]
    Completing,
    /// Complete; becomes readable when the steps of processing accept it.
    #[sea_orm(string_value = "processing")]
    Processing,
    /// Complete and readable. The content never changes.
    #[sea_orm(string_value = "stored")]
    Stored,
    /// Not completed before it expired.
    #[sea_orm(string_value = "expired")]
    Expired,
    /// The upload was completed, but its content does not have the digests that the client expects
    /// or the MIME type that a link requires.
    #[sea_orm(string_value = "corrupt")]
    Corrupt,
    /// A step of processing did not accept the file. Its content is removed.
    #[sea_orm(string_value = "rejected")]
    Rejected,
    /// A step of processing found the content dangerous. Nobody can read it; it is kept for the
    /// operator.
    #[sea_orm(string_value = "quarantined")]
    Quarantined,
    /// Deleted by a client.
    #[sea_orm(string_value = "deleted")]
    Deleted,
}

impl State {
    /// The states of files that have complete content.
    pub(crate) const WITH_CONTENT: [Self; 3] = [Self::Processing, Self::Stored, Self::Quarantined];

    /// Whether the content is complete and accepted, or may still be: the upload has succeeded.
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Processing | Self::Stored)
    }
}

impl ActiveModelBehavior for ActiveModel {}
