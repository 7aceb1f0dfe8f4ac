use sea_orm::entity::prelude::*;

/// What an application shows to be let in.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "api_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Of the secret, which is kept nowhere.
    pub hash: Vec<u8>,
    /// What people call it.
    pub label: String,
    /// Whose files it is for.
    pub tenant: String,
    /// What it allows: names with commas between them.
    pub scopes: String,
    /// How many requests a second it may make; `None`: as many as it likes.
    pub max_rate: Option<i32>,
    /// Largest file that it may create, in bytes; `None`: as large as any.
    pub max_size: Option<i64>,
    /// How much its links may be sending at the same time; `None`: as much as anybody.
    pub max_transfers: Option<i32>,
    /// All moments are in milliseconds since the Unix epoch.
    pub created_at: i64,
    pub expires_at: Option<i64>,
    pub revoked_at: Option<i64>,
}

impl ActiveModelBehavior for ActiveModel {}
