//! SQL that differs between SQLite, PostgreSQL and MySQL/MariaDB.

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
    sea_query::{ColumnDef, Expr, ExprTrait, TableCreateStatement},
};

/// Begins a transaction that writes. On SQLite it must be immediate: a deferred one fails with
/// "database is locked" when it upgrades from reading to writing.
pub(crate) async fn begin_write(connection: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    connection
        .begin_with_options(TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        })
        .await
}

/// Reads the database's clock, in milliseconds since the Unix epoch. All nodes see the same clock,
/// so leases are measured by it. `None` for SQLite, which uses this process's clock.
pub(crate) async fn clock_ms(connection: &impl ConnectionTrait) -> Result<Option<i64>, DbErr> {
    let backend = connection.get_database_backend();
    let sql = match backend {
        DbBackend::Postgres => "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS ms",
        DbBackend::MySql => "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) AS ms",
        _ => return Ok(None),
    };
    match connection.query_one_raw(Statement::from_string(backend, sql)).await? {
        Some(row) => row.try_get("", "ms").map(Some),
        None => Ok(None),
    }
}

/// Sums an integer column as an integer; the databases widen it to a decimal or numeric type.
pub(crate) fn integer_sum(backend: DbBackend, column: impl ColumnTrait) -> Expr {
    integer_sum_of(backend, column.into_expr())
}

/// Like [`integer_sum`], for an expression.
pub(crate) fn integer_sum_of(backend: DbBackend, number: Expr) -> Expr {
    number.sum().cast_as(if backend == DbBackend::MySql { "SIGNED" } else { "BIGINT" })
}

/// How many bytes of a name are indexed for prefix search and ordering: what an index of every
/// database accepts.
pub(crate) const NAME_START: u32 = 255;

/// SQL expression for the first [`NAME_START`] bytes of a file's name. May split a character.
pub(crate) fn name_start(backend: DbBackend) -> Expr {
    Expr::cust(match backend {
        DbBackend::Postgres => format!("substring(convert_to(name, 'UTF8') from 1 for {NAME_START})"),
        DbBackend::MySql => format!("SUBSTRING(CAST(name AS BINARY), 1, {NAME_START})"),
        _ => format!("CAST(substr(CAST(name AS BLOB), 1, {NAME_START}) AS BLOB)"),
    })
}

/// SQL expression that listings order by and seek on. PostgreSQL's planner assumes matching rows
/// to be evenly distributed: given plain `uid`, it prefers scanning the primary key past all
/// deleted rows to using an index that excludes them. With this expression, only the listing
/// indexes provide the order.
pub(crate) fn listed_uid(backend: DbBackend) -> Expr {
    Expr::cust(if backend == DbBackend::Postgres { "(files.uid + 0)" } else { "files.uid" })
}

/// SQL that creates an index of files on `columns` and [`listed_uid`].
pub(crate) fn listing_index(backend: DbBackend, name: &str, columns: &str) -> String {
    let uid = if backend == DbBackend::Postgres { "(uid + 0)" } else { "uid" };
    format!("CREATE INDEX {name} ON files ({columns}, {uid})")
}

/// Column type for text longer than 64 KiB, the limit of `TEXT` in MySQL.
pub(crate) fn long_text(backend: DbBackend, column: &mut ColumnDef) -> &mut ColumnDef {
    if backend == DbBackend::MySql { column.custom("MEDIUMTEXT") } else { column.text() }
}

/// Makes text comparisons bytewise, whatever the server's default collation is.
pub(crate) fn table(backend: DbBackend, mut table: TableCreateStatement) -> TableCreateStatement {
    if backend == DbBackend::MySql {
        table.character_set("utf8mb4").collate("utf8mb4_bin").engine("InnoDB");
    }
    table
}
