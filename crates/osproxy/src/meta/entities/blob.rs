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
    /// Name of the backend that holds the object.
    pub backend: String,
    pub object_key: String,
    /// How many files share it; counted in the transaction that makes or removes the file.
    pub refs: i32,
    /// Bytes; set once stored.
    pub size: i64,
    /// Computed by osproxy; set once stored.
    pub md5: Option<Vec<u8>>,
    /// Computed by osproxy; set once stored. Unique within a tenant.
    pub blake3: Option<Vec<u8>>,
    /// MIME type that the first bytes speak of.
    pub sniffed: Option<String>,
    pub created_at: i64,
    #[sea_orm(has_many)]
    pub files: HasMany<super::file::Entity>,
}

/// Where a blob stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// An object may be under the key, whole or not; nobody reads it.
    #[sea_orm(string_value = "writing")]
    Writing,
    /// The object is whole, durable and verified.
    #[sea_orm(string_value = "stored")]
    Stored,
    /// The object is being removed, then the row.
    #[sea_orm(string_value = "deleting")]
    Deleting,
}

impl ActiveModelBehavior for ActiveModel {}
