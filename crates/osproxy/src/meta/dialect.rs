//! What differs between databases.

use std::{path::Path, time::Duration};

use rustix::fs::{Mode, OFlags};
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, DbErr, RuntimeErr,
    SqliteTransactionMode, TransactionOptions, TransactionTrait,
    sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous},
};

/// How many connections read at the same time.
const READERS: u32 = 4;

/// How long a statement waits for another process, such as a command-line tool, to end its transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The one connection that writes: SQLite has one writer at a time, so within the process writers queue for it.
/// The file is its owner's alone, since it holds the secrets that sign links; what SQLite puts beside it is like it.
pub(super) async fn sqlite_writer(path: &Path) -> Result<DatabaseConnection, DbErr> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let created = rustix::fs::open(path, flags, Mode::from_bits_retain(0o600));
    created.map_err(|error| DbErr::Conn(RuntimeErr::Internal(error.to_string())))?;
    sqlite(path, 1, false).await
}

pub(super) async fn sqlite_reader(path: &Path) -> Result<DatabaseConnection, DbErr> {
    sqlite(path, READERS, true).await
}

async fn sqlite(path: &Path, connections: u32, read_only: bool) -> Result<DatabaseConnection, DbErr> {
    let mut options = ConnectOptions::new("sqlite::memory:");
    let path = path.to_owned();
    options
        .max_connections(connections)
        .min_connections(connections)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |options| {
            options
                .filename(&path)
                .in_memory(false)
                .shared_cache(false)
                .create_if_missing(!read_only)
                .read_only(read_only)
                .journal_mode(SqliteJournalMode::Wal)
                // A commit is on the disk when it returns.
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(true)
                .busy_timeout(BUSY_TIMEOUT)
        });
    Database::connect(options).await
}

/// Begins a transaction that will write. A deferred one of SQLite would fail with "database is locked"
/// when it turns from reading to writing.
pub(super) async fn begin_write(connection: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    connection
        .begin_with_options(TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        })
        .await
}

/// The database's clock, in milliseconds since the Unix epoch: what leases are measured by, since every node sees the
/// same. `SQLite` runs within this process and has no other.
pub(super) fn now_ms() -> i64 {
    super::now_ms()
}
