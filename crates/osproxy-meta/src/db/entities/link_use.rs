//! The table of use counts of links.

use sea_orm::entity::prelude::*;

/// Use count of a link whose number of uses is limited.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "link_uses")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub uses: i32,
    /// When the link expires, in milliseconds since the Unix epoch.
    pub expires_at: i64,
}

impl ActiveModelBehavior for ActiveModel {}
