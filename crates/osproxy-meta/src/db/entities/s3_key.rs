//! The table of keys of the S3 API.

use sea_orm::entity::prelude::*;

/// A key of the S3 API.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "s3_keys")]
pub struct Model {
    /// The access key id. The secret is not stored: it is derived from the id and a master key
    /// outside the database.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Human-readable label.
    pub label: String,
    /// The tenant whose files the key gives access to.
    pub tenant: String,
    /// JSON list of the buckets that the key gives access to; `None`: all buckets of the tenant.
    pub buckets: Option<String>,
    /// Whether the key permits no changes.
    pub read_only: bool,
    /// Fingerprint of the master key from which the secret is derived.
    pub master_key: String,
    /// All timestamps are in milliseconds since the Unix epoch.
    pub created_at: i64,
    pub revoked_at: Option<i64>,
}

impl ActiveModelBehavior for ActiveModel {}
