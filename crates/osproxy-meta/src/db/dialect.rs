//! SQL that differs between SQLite, PostgreSQL and MySQL/MariaDB.

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
    sea_query::{ColumnDef, Expr, ExprTrait, TableCreateStatement},
};

/// Begins a transaction that writes. On SQLite the transaction must be immediate: a deferred
/// transaction can fail with "database is locked" when it upgrades from reading to writing.
pub(crate) async fn begin_write(connection: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    connection
        .begin_with_options(TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        })
        .await
}

/// Reads the database's clock, in milliseconds since the Unix epoch. Returns `None` for SQLite,
/// which has no clock.
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

/// Query with the parameters table and column. Returns a row if the table has the column.
pub(crate) fn find_column(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Postgres => {
            "SELECT 1 FROM information_schema.columns \
             WHERE table_schema = current_schema() AND table_name = $1 AND column_name = $2"
        }
        DbBackend::MySql => {
            "SELECT 1 FROM information_schema.columns \
             WHERE table_schema = DATABASE() AND table_name = ? AND column_name = ?"
        }
        _ => "SELECT 1 FROM pragma_table_info(?) WHERE name = ?",
    }
}

/// Query with the parameters table and index. Returns a row if the table has the index.
pub(crate) fn find_index(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Postgres => {
            "SELECT 1 FROM pg_indexes WHERE schemaname = current_schema() AND tablename = $1 AND indexname = $2"
        }
        DbBackend::MySql => {
            "SELECT 1 FROM information_schema.statistics \
             WHERE table_schema = DATABASE() AND table_name = ? AND index_name = ? LIMIT 1"
        }
        _ => "SELECT 1 FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND name = ?",
    }
}

/// Sums an integer column as an integer. Without the cast, PostgreSQL and MySQL return a decimal.
pub(crate) fn integer_sum(backend: DbBackend, column: impl ColumnTrait) -> Expr {
    integer_sum_of(backend, column.into_expr())
}

/// Like [`integer_sum`], for an expression.
pub(crate) fn integer_sum_of(backend: DbBackend, number: Expr) -> Expr {
    number.sum().cast_as(if backend == DbBackend::MySql { "SIGNED" } else { "BIGINT" })
}

/// Number of bytes of a name that are indexed for prefix search and ordering. Every database
/// accepts this length in an index.
pub(crate) const NAME_START: u32 = 255;

/// SQL expression for the first [`NAME_START`] bytes of a file's name. The last character may be
/// incomplete.
pub(crate) fn name_start(backend: DbBackend) -> Expr {
    Expr::cust(match backend {
        DbBackend::Postgres => format!("substring(convert_to(name, 'UTF8') from 1 for {NAME_START})"),
        DbBackend::MySql => format!("SUBSTRING(CAST(name AS BINARY), 1, {NAME_START})"),
        _ => format!("CAST(substr(CAST(name AS BLOB), 1, {NAME_START}) AS BLOB)"),
    })
}

/// SQL expression for the uid by which listings are ordered. On PostgreSQL the expression differs
/// from plain `uid`, so that only the listing indexes provide this order. With plain `uid`, the
/// planner may walk along the primary key through all removed files, because it assumes that
/// matching rows are evenly distributed.
pub(crate) fn listed_uid(backend: DbBackend) -> Expr {
    Expr::cust(if backend == DbBackend::Postgres { "(files.uid + 0)" } else { "files.uid" })
}

/// SQL that creates an index on the `files` table over `columns` and [`listed_uid`].
pub(crate) fn listing_index(backend: DbBackend, name: &str, columns: &str) -> String {
    let uid = if backend == DbBackend::Postgres { "(uid + 0)" } else { "uid" };
    format!("CREATE INDEX {name} ON files ({columns}, {uid})")
}

/// Like [`listing_index`], over `column`, `columns` and [`listed_uid`], but only of the rows in which
/// `column` is set. MySQL indexes all rows.
pub(crate) fn listing_index_where_set(backend: DbBackend, name: &str, column: &str, columns: &str) -> String {
    let index = listing_index(backend, name, &format!("{column}, {columns}"));
    if backend == DbBackend::MySql { index } else { format!("{index} WHERE {column} IS NOT NULL") }
}

/// Column type for text longer than 64 KiB, the limit of `TEXT` in MySQL.
pub(crate) fn long_text(backend: DbBackend, column: &mut ColumnDef) -> &mut ColumnDef {
    if backend == DbBackend::MySql { column.custom("MEDIUMTEXT") } else { column.text() }
}

/// On MySQL, selects the `InnoDB` engine and a collation that compares text bytewise; the server's
/// defaults may differ.
pub(crate) fn table(backend: DbBackend, mut table: TableCreateStatement) -> TableCreateStatement {
    if backend == DbBackend::MySql {
        table.character_set("utf8mb4").collate("utf8mb4_bin").engine("InnoDB");
    }
    table
}
