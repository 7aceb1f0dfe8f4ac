//! Idempotent migration steps. If a migration is interrupted on a database without transactional
//! DDL, the steps so far remain applied, and the migration later runs again from the beginning.

use sea_orm_migration::{
    SchemaManager,
    sea_orm::DbErr,
    sea_query::{ColumnDef, Index, IndexCreateStatement, Table, TableCreateStatement},
};

use crate::db::dialect;

/// Creates a table, if it does not exist.
pub(super) async fn create_table(
    manager: &SchemaManager<'_>,
    mut table: TableCreateStatement,
) -> Result<(), DbErr> {
    table.if_not_exists();
    manager.create_table(dialect::table(manager.get_database_backend(), table)).await
}

/// Adds a column, if it does not exist.
pub(super) async fn add_column(
    manager: &SchemaManager<'_>,
    table: &'static str,
    name: &str,
    column: &mut ColumnDef,
) -> Result<(), DbErr> {
    if manager.has_column(table, name).await? {
        return Ok(());
    }
    manager.alter_table(Table::alter().table(table).add_column(column.to_owned()).to_owned()).await
}

/// Creates an index, if it does not exist.
pub(super) async fn create_index(
    manager: &SchemaManager<'_>,
    table: &'static str,
    name: &str,
    mut index: IndexCreateStatement,
) -> Result<(), DbErr> {
    if manager.has_index(table, name).await? {
        return Ok(());
    }
    manager.create_index(index.name(name).table(table).to_owned()).await
}

/// Drops an index, if it exists.
pub(super) async fn drop_index(
    manager: &SchemaManager<'_>,
    table: &'static str,
    name: &str,
) -> Result<(), DbErr> {
    if !manager.has_index(table, name).await? {
        return Ok(());
    }
    manager.drop_index(Index::drop().name(name).table(table).to_owned()).await
}
