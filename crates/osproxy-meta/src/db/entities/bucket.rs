//! The table of buckets.

use sea_orm::entity::prelude::*;

/// A bucket: a namespace of keys.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "buckets")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    /// Unique among all tenants.
    pub name: String,
    pub tenant: String,
    /// In milliseconds since the Unix epoch.
    pub created_at: i64,
    /// 1 if everybody may read the objects.
    pub is_public: i32,
    /// CORS rules, in a format of the caller.
    #[sea_orm(column_type = "Text", nullable)]
    pub cors: Option<String>,
    /// Lifecycle rules, in a format of the caller.
    #[sea_orm(column_type = "Text", nullable)]
    pub lifecycle: Option<String>,
}

impl ActiveModelBehavior for ActiveModel {}
