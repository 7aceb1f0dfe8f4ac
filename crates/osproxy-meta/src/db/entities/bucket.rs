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
    /// When to apply the lifecycle rules, in milliseconds since the Unix epoch; `None` without rules.
    pub lifecycle_due_at: Option<i64>,
    /// How far the rules are applied, in a format of the caller.
    #[sea_orm(column_type = "Text", nullable)]
    pub lifecycle_position: Option<String>,
}

impl ActiveModelBehavior for ActiveModel {}
