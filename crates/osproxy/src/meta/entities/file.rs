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
    /// Set once stored.
    pub blob_id: Option<i64>,
    /// MIME type; set once stored.
    pub content_type: String,
    /// When the upload lapses, in milliseconds since the Unix epoch.
    pub expires_at: i64,
    pub created_at: i64,
    /// When the content was complete, in milliseconds since the Unix epoch.
    pub stored_at: Option<i64>,
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
    /// Complete: can be read, never changes again.
    #[sea_orm(string_value = "stored")]
    Stored,
}

impl ActiveModelBehavior for ActiveModel {}
