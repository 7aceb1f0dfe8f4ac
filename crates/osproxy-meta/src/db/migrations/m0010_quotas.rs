//! Quotas of tenants and the charges of files.

use sea_orm::{DbErr, DeriveIden, sea_query::{ColumnDef, Table}};

use super::steps::{Schema, add_column, create_table};

#[derive(DeriveIden)]
enum Files {
    Charged,
}

#[derive(DeriveIden)]
enum Tenants {
    Table,
    Name,
    MaxBytes,
    Used,
}

/// Existing files get a charge of 0 bytes. The charges of a tenant's files are computed when the
/// tenant gets a quota.
pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let tenants = Table::create()
        .table(Tenants::Table)
        .col(ColumnDef::new(Tenants::Name).string_len(64).not_null().primary_key())
        .col(ColumnDef::new(Tenants::MaxBytes).big_integer())
        .col(ColumnDef::new(Tenants::Used).big_integer().not_null())
        .to_owned();
    create_table(schema, tenants).await?;
    let mut charged = ColumnDef::new(Files::Charged);
    add_column(schema, "files", "charged", charged.big_integer().not_null().default(0)).await
}
