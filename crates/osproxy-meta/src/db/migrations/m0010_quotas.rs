//! Quotas of tenants and the charges of files.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{DbErr, DeriveIden},
    sea_query::{ColumnDef, Table},
};

use super::steps::{add_column, create_table};

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0010_quotas"
    }
}

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

#[async_trait]
impl MigrationTrait for Migration {
    /// Atomic on databases with transactional DDL.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    /// Charges existing files 0 bytes. The charges of a tenant's files are computed when the tenant
    /// gets a quota.
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let tenants = Table::create()
            .table(Tenants::Table)
            .col(ColumnDef::new(Tenants::Name).string_len(64).not_null().primary_key())
            .col(ColumnDef::new(Tenants::MaxBytes).big_integer())
            .col(ColumnDef::new(Tenants::Used).big_integer().not_null())
            .to_owned();
        create_table(manager, tenants).await?;
        let mut charged = ColumnDef::new(Files::Charged);
        add_column(manager, "files", "charged", charged.big_integer().not_null().default(0)).await
    }
}
