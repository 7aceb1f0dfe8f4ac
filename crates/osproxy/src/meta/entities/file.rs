use sea_orm::entity::prelude::*;

/// What a uid names.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "files")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub uid: i64,
    pub tenant: String,
    pub name: String,
    pub state: State,
    /// Its content once stored; while parts of it arrive, the blob that they will be.
    pub blob_id: Option<i64>,
    /// How many parts it was sent in, if it was; set once stored.
    pub part_count: Option<i32>,
    /// MIME type; set once stored, or before, if the client says it.
    pub content_type: String,
    /// When the upload lapses; once it is gone, when it went. In milliseconds since the Unix epoch.
    pub expires_at: i64,
    pub created_at: i64,
    /// When the content was complete, in milliseconds since the Unix epoch.
    pub stored_at: Option<i64>,
    /// How many bytes the client says it will have.
    pub announced_size: Option<i64>,
    /// How many bytes each part has but the last, of content whose size was announced.
    pub part_size: Option<i64>,
    /// What the client says that the digests will be.
    pub claimed_md5: Option<Vec<u8>>,
    pub claimed_sha256: Option<Vec<u8>>,
    pub claimed_blake3: Option<Vec<u8>>,
    /// 1 as long as it is not gone, then 0: what is listed if no state is asked for.
    pub listed: i32,
    /// That of its name.
    pub category: String,
    /// The first bytes of its name, by which files are found and ordered on every database alike.
    pub name_start: Option<Vec<u8>>,
    /// What its owner notes of it: a JSON object of strings; not set if that is nothing.
    #[sea_orm(column_type = "Text", nullable)]
    pub metadata: Option<String>,
    /// Links that were issued before are worth nothing; in seconds since the Unix epoch. Not set: none are.
    pub links_from: Option<i64>,
    /// The process that made it complete.
    pub stored_by: Option<String>,
    /// The blob that it was when it was complete: the content may be found to be that of another one later.
    pub received_as: Option<i64>,
    /// When the first part of it was begun, and when the last one was stored, in milliseconds since the Unix epoch; set once
    /// complete, since the parts go.
    pub received_from: Option<i64>,
    pub received_until: Option<i64>,
    /// How many processes took these parts.
    pub received_nodes: Option<i32>,
    /// How many bytes its tenant is charged with for it: those announced, or those that came; once stored, those that it has.
    pub charged: i64,
    /// Bytes of the parts that count, as long as the upload is not complete.
    pub received: i64,
    /// MIME type that the content must have, or a family such as `image/*`: what the last link says that a part came by.
    pub required_type: Option<String>,
    /// How many bytes its tenant is charged with for the row itself.
    pub record_bytes: i64,
    #[sea_orm(belongs_to, from = "blob_id", to = "id")]
    pub blob: HasOne<super::blob::Entity>,
}

/// Where a file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// A link was issued.
    #[sea_orm(string_value = "pending")]
    Pending,
    /// Bytes have begun to arrive.
    #[sea_orm(string_value = "receiving")]
    Receiving,
    /// The client has said that all parts are there; the store is putting them together.
    #[sea_orm(string_value = "completing")]
    Completing,
    /// Complete: can be read, never changes again.
    #[sea_orm(string_value = "stored")]
    Stored,
    /// Was not complete when its time was over.
    #[sea_orm(string_value = "expired")]
    Expired,
    /// Complete, but its content is not what the client had announced.
    #[sea_orm(string_value = "corrupt")]
    Corrupt,
    /// Removed on demand.
    #[sea_orm(string_value = "deleted")]
    Deleted,
}

impl ActiveModelBehavior for ActiveModel {}
