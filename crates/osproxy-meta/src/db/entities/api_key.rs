//! The table of API keys.

use sea_orm::entity::prelude::*;

/// An API key.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "api_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Hash of the secret. The secret itself is not stored.
    pub hash: Vec<u8>,
    /// Human-readable label.
    pub label: String,
    /// The tenant whose files the key gives access to.
    pub tenant: String,
    /// Granted scopes, comma-separated.
    pub scopes: String,
    /// Maximum requests per second; `None`: no limit for this key.
    pub max_rate: Option<i32>,
    /// Maximum size of a file created with the key, in bytes; `None`: no limit for this key.
    pub max_size: Option<i64>,
    /// Maximum number of concurrent transfers on each node. Includes transfers through links that
    /// were issued with the key. `None`: no limit for this key.
    pub max_transfers: Option<i32>,
    /// All timestamps are in milliseconds since the Unix epoch.
    pub created_at: i64,
    pub expires_at: Option<i64>,
    pub revoked_at: Option<i64>,
}

impl ActiveModelBehavior for ActiveModel {}
