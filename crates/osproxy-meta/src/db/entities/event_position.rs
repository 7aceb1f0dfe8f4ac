//! The table with the next position of an event.

use sea_orm::entity::prelude::*;

/// The only row of the table. Its lock serializes the transactions that assign positions.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "event_positions")]
pub struct Model {
    /// Always 1.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    pub next: i64,
}

impl ActiveModelBehavior for ActiveModel {}
