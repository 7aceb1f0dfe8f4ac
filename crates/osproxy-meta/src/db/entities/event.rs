//! The table of events.

use sea_orm::entity::prelude::*;

/// An event: a change of a file, or another fact that an application may want to know.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "events")]
pub struct Model {
    /// Assigned when the row is inserted. Ascends along the events of one file.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// Position in the order in which readers see the events; `None` until it is assigned. Unused on
    /// SQLite, where `id` has this order.
    pub position: Option<i64>,
    pub tenant: String,
    pub kind: String,
    /// Uid of the file that the event is about.
    pub uid: Option<i64>,
    /// In milliseconds since the Unix epoch.
    pub created_at: i64,
    /// A JSON object.
    #[sea_orm(column_type = "Text")]
    pub payload: String,
}

impl ActiveModelBehavior for ActiveModel {}
