//! Packs, which hold small objects.

use sea_orm::{DbErr, DeriveIden, sea_query::{ColumnDef, Index, Table}};

use super::steps::{Schema, create_table};

#[derive(DeriveIden)]
enum Packs {
    Table,
    Store,
    Number,
    Dead,
    DeadSince,
    EmptiedAt,
}

/// Existing objects are not moved into packs.
pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let packs = Table::create()
        .table(Packs::Table)
        .col(ColumnDef::new(Packs::Store).string_len(64).not_null())
        .col(ColumnDef::new(Packs::Number).big_integer().not_null())
        .col(ColumnDef::new(Packs::Dead).big_integer().not_null())
        .col(ColumnDef::new(Packs::DeadSince).big_integer().not_null())
        .col(ColumnDef::new(Packs::EmptiedAt).big_integer())
        .primary_key(Index::create().col(Packs::Store).col(Packs::Number))
        .to_owned();
    create_table(schema, packs).await
}
