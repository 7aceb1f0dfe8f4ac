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
    pub layout: Layout,
    /// Name of the backend that holds the object.
    pub backend: String,
    /// Of the one object; as long as the layout is `parts`, the name that the store's upload or the first merge has taken,
    /// or empty.
    pub object_key: String,
    /// How many files share it; counted in the transaction that makes or removes the file.
    pub refs: i32,
    /// Bytes; set once stored, or before, if they were announced.
    pub size: i64,
    /// Said by the client, of content that was sent in parts.
    pub claimed_md5: Option<Vec<u8>>,
    /// Computed by osproxy, where somebody asked for it; set once verified.
    pub md5: Option<Vec<u8>>,
    /// Computed by osproxy; set once verified. Unique within a tenant.
    pub blake3: Option<Vec<u8>>,
    /// MIME type that the first bytes speak of.
    pub sniffed: Option<String>,
    pub created_at: i64,
    /// The process that writes it, as long as it is being written.
    pub written_by: Option<String>,
    /// What the store calls the upload in which it collects parts, or empty as long as that is not known. Set for the
    /// first time when there may be one, and not reset before there is none: under `object_key`.
    pub upload_id: Option<String>,
    /// Highest number of a part that ever was to go there.
    pub native_highest: Option<i32>,
    /// Number of the part that is too small for the store anywhere but at the end.
    pub native_small: Option<i32>,
    /// How many bytes each part has but the last, if that was settled before they came.
    pub part_size: Option<i64>,
    /// Computed by osproxy, where somebody asked for it; set once verified.
    pub sha256: Option<Vec<u8>>,
    /// Said by the client, of content that was sent in parts.
    pub claimed_sha256: Option<Vec<u8>>,
    pub claimed_blake3: Option<Vec<u8>>,
    #[sea_orm(has_many)]
    pub files: HasMany<super::file::Entity>,
    #[sea_orm(has_many)]
    pub parts: HasMany<super::part::Entity>,
}

/// Where a blob stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// An object may be under the key, whole or not; nobody reads it.
    #[sea_orm(string_value = "writing")]
    Writing,
    /// Parts of it arrive.
    #[sea_orm(string_value = "receiving")]
    Receiving,
    /// Every byte of it is durable, and can be read.
    #[sea_orm(string_value = "stored")]
    Stored,
    /// The object is being removed, then the row.
    #[sea_orm(string_value = "deleting")]
    Deleting,
}

/// Where the bytes of a blob lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum Layout {
    /// In one object.
    #[sea_orm(string_value = "whole")]
    Whole,
    /// In the objects of its parts.
    #[sea_orm(string_value = "parts")]
    Parts,
}

impl ActiveModelBehavior for ActiveModel {}
