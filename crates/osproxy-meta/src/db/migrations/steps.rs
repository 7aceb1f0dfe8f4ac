//! Idempotent migration steps. If a migration is interrupted on a database without transactional
//! DDL, the completed steps remain applied. Later, the migration runs again from the beginning.

use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement, StatementBuilder,
    sea_query::{ColumnDef, Index, IndexCreateStatement, Table, TableCreateStatement},
};

use crate::db::dialect;

/// The schema, within the transaction of a migration.
pub(super) struct Schema<'t>(&'t DatabaseTransaction);

impl<'t> Schema<'t> {
    pub(super) fn new(transaction: &'t DatabaseTransaction) -> Self {
        Self(transaction)
    }

    pub(super) fn connection(&self) -> &'t DatabaseTransaction {
        self.0
    }

    pub(super) fn backend(&self) -> DbBackend {
        self.0.get_database_backend()
    }

    async fn execute(&self, statement: &impl StatementBuilder) -> Result<(), DbErr> {
        self.0.execute(statement).await.map(drop)
    }

    async fn has_column(&self, table: &str, column: &str) -> Result<bool, DbErr> {
        self.exists(dialect::find_column, table, column).await
    }

    pub(super) async fn has_index(&self, table: &str, index: &str) -> Result<bool, DbErr> {
        self.exists(dialect::find_index, table, index).await
    }

    async fn exists(
        &self,
        find: fn(DbBackend) -> &'static str,
        table: &str,
        name: &str,
    ) -> Result<bool, DbErr> {
        let values = [table.into(), name.into()];
        let find = Statement::from_sql_and_values(self.backend(), find(self.backend()), values);
        Ok(self.0.query_one_raw(find).await?.is_some())
    }
}

/// Creates a table, if it does not exist.
pub(super) async fn create_table(schema: &Schema<'_>, mut table: TableCreateStatement) -> Result<(), DbErr> {
    table.if_not_exists();
    schema.execute(&dialect::table(schema.backend(), table)).await
}

/// Adds a column, if it does not exist.
pub(super) async fn add_column(
    schema: &Schema<'_>,
    table: &'static str,
    name: &str,
    column: &mut ColumnDef,
) -> Result<(), DbErr> {
    if schema.has_column(table, name).await? {
        return Ok(());
    }
    schema.execute(&Table::alter().table(table).add_column(column.to_owned()).to_owned()).await
}

/// Creates an index, if it does not exist.
pub(super) async fn create_index(
    schema: &Schema<'_>,
    table: &'static str,
    name: &str,
    mut index: IndexCreateStatement,
) -> Result<(), DbErr> {
    if schema.has_index(table, name).await? {
        return Ok(());
    }
    schema.execute(index.name(name).table(table)).await
}

/// Drops an index, if it exists.
pub(super) async fn drop_index(schema: &Schema<'_>, table: &'static str, name: &str) -> Result<(), DbErr> {
    if !schema.has_index(table, name).await? {
        return Ok(());
    }
    schema.execute(Index::drop().name(name).table(table)).await
}
