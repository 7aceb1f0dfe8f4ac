//! The table of upload grants.

use sea_orm::entity::prelude::*;

/// The right of anyone who has its URL to create uploads of one tenant.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "upload_grants")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    pub tenant: String,
    /// All timestamps are in milliseconds since the Unix epoch.
    pub created_at: i64,
    pub expires_at: i64,
    pub revoked_at: Option<i64>,
    /// Maximum value of `uploads`; `None`: no limit.
    pub max_uploads: Option<i32>,
    /// Number of files that were created under the grant. Does not include files whose upload was
    /// aborted or has expired.
    pub uploads: i32,
    /// Number of files that were ever created under the grant.
    pub attempts: i32,
    /// Id of the API key that created the grant.
    pub api_key: Option<String>,
    /// What the uploads may be, as JSON.
    #[sea_orm(column_type = "Text")]
    pub terms: String,
}

impl ActiveModelBehavior for ActiveModel {}
