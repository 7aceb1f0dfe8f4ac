//! The table of packs that have dead space.

use sea_orm::entity::prelude::*;

/// A pack with objects that were deleted or moved.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "packs")]
pub struct Model {
    /// Name of the store.
    #[sea_orm(primary_key, auto_increment = false)]
    pub store: String,
    /// Number of the pack in its store.
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i64,
    /// Bytes of the records that no row refers to any more.
    pub dead: i64,
    /// Since when the pack has dead space, in milliseconds since the Unix epoch.
    pub dead_since: i64,
    /// When the last object was moved out of the pack, in milliseconds since the Unix epoch.
    pub emptied_at: Option<i64>,
}

impl ActiveModelBehavior for ActiveModel {}
