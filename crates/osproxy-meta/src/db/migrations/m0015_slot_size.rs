//! Slot size of preallocated files whose size is not announced.

use sea_orm::{DbErr, DeriveIden, sea_query::ColumnDef};

use super::steps::{Schema, add_column};

#[derive(DeriveIden)]
enum Blobs {
    SlotSize,
}

/// The parts of uploads that are running now stay separate objects.
pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    add_column(schema, "blobs", "slot_size", ColumnDef::new(Blobs::SlotSize).big_integer()).await
}
