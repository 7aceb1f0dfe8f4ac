//! Locks on a whole database of a server. A node holds a lock through a connection.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement};

/// First key of osproxy's advisory locks in PostgreSQL; the second key is the lock's number.
const ADVISORY_LOCK_NAMESPACE: i32 = 0x6f73_7078;

/// A lock on a whole database. A connection owns the lock; closing the connection releases it.
#[derive(Clone, Copy)]
pub(crate) enum DatabaseLock {
    /// Held during migrations, and while the first API key or link key is created.
    Migrate = 1,
    /// Held by a node without Redis, so that no other node without Redis uses the database.
    Exclusive = 2,
}

/// Acquires a lock for `connection`, which must be a pool of one connection. Waits up to `wait`, on
/// MySQL rounded down to whole seconds. Returns `false` if another connection still holds the lock;
/// PostgreSQL reports a timed-out wait as an error instead. Always returns `true` for SQLite.
pub(crate) async fn acquire(
    connection: &DatabaseConnection,
    lock: DatabaseLock,
    wait: Duration,
) -> Result<bool, DbErr> {
    let backend = connection.get_database_backend();
    let number = lock as i32;
    let sql = match backend {
        DbBackend::Postgres if wait.is_zero() => {
            format!("SELECT pg_try_advisory_lock({ADVISORY_LOCK_NAMESPACE}, {number})::INT AS is_acquired")
        }
        DbBackend::Postgres => {
            let limit = wait.as_millis();
            connection.execute_unprepared(&format!("SET statement_timeout = {limit}")).await?;
            format!(
                "SELECT 1 AS is_acquired FROM (SELECT pg_advisory_lock({ADVISORY_LOCK_NAMESPACE}, {number})) AS locked"
            )
        }
        DbBackend::MySql => {
            // No time limit: this connection may wait for a long migration, and then run one
            // itself.
            let no_time_limit = "SET @osproxy = 0 /*M!100300 , SESSION max_statement_time = 0 */";
            connection.execute_unprepared(no_time_limit).await?;
            format!(
                "SELECT COALESCE(GET_LOCK({}, {}), 0) AS is_acquired",
                mysql_lock_name(lock),
                wait.as_secs()
            )
        }
        // SQLite: the node that uses the database holds a lock on a file instead.
        _ => return Ok(true),
    };
    let Some(row) = connection.query_one_raw(Statement::from_string(backend, sql)).await? else {
        return Ok(false);
    };
    if backend == DbBackend::Postgres {
        // No time limit: this connection may run a long migration next.
        connection.execute_unprepared("SET statement_timeout = 0").await?;
    }
    Ok(row.try_get::<i32>("", "is_acquired")? == 1)
}

/// Whether `connection`, which must be a pool of one connection, still holds the lock.
pub(crate) async fn is_held(connection: &DatabaseConnection, lock: DatabaseLock) -> Result<bool, DbErr> {
    let backend = connection.get_database_backend();
    let sql = match backend {
        DbBackend::MySql => {
            format!(
                "SELECT COALESCE(IS_USED_LOCK({}) = CONNECTION_ID(), 0) AS is_held",
                mysql_lock_name(lock)
            )
        }
        DbBackend::Postgres => format!(
            "SELECT COUNT(*)::INT AS is_held FROM pg_locks WHERE locktype = 'advisory' AND classid = {ADVISORY_LOCK_NAMESPACE} \
             AND objid = {} AND pid = pg_backend_pid() AND granted",
            lock as i32
        ),
        _ => return Ok(true),
    };
    let row = connection.query_one_raw(Statement::from_string(backend, sql)).await?;
    row.map_or(Ok(false), |row| Ok(row.try_get::<i32>("", "is_held")? == 1))
}

/// SQL expression for the lock's name. Lock names are global to a MySQL server, so the name
/// includes a hash of the database's name.
fn mysql_lock_name(lock: DatabaseLock) -> String {
    format!("CONCAT('osproxy {} ', MD5(DATABASE()))", lock as i32)
}
