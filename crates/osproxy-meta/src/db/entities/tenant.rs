//! The table of tenants whose usage is counted.

use sea_orm::entity::prelude::*;

/// A tenant whose usage is counted.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "tenants")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// Quota in bytes; `None`: unlimited.
    pub max_bytes: Option<i64>,
    /// Usage in bytes: the sum of the charges for the tenant's files.
    pub used: i64,
}

impl ActiveModelBehavior for ActiveModel {}
