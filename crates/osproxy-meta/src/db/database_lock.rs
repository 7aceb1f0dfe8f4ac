//! Locks on a whole database server, which nodes hold through a connection.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement};

/// First key of osproxy's advisory locks in PostgreSQL; the second is the lock's number.
const ADVISORY_LOCK_NAMESPACE: i32 = 0x6f73_7078;

/// A lock on a whole database, owned by a connection and released when that ends.
#[derive(Clone, Copy)]
pub(crate) enum DatabaseLock {
    /// Held during migrations, and while the first API key or link key is created.
    Migrate = 1,
    /// Held by a node without Redis, to keep other such nodes off the database.
    Exclusive = 2,
}

/// Takes a lock for `connection`, which must be a pool of one. Waits up to `wait`, in MySQL
/// rounded down to seconds. Returns `false` if another connection holds the lock; in PostgreSQL a
/// wait that times out is an error.
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
            // The holder may run a long migration, and others wait for it as long.
            let no_time_limit = "SET @osproxy = 0 /*M!100300 , SESSION max_statement_time = 0 */";
            connection.execute_unprepared(no_time_limit).await?;
            format!(
                "SELECT COALESCE(GET_LOCK({}, {}), 0) AS is_acquired",
                mysql_lock_name(lock),
                wait.as_secs()
            )
        }
        // SQLite: the only writing process holds a lock on a file instead.
        _ => return Ok(true),
    };
    let Some(row) = connection.query_one_raw(Statement::from_string(backend, sql)).await? else {
        return Ok(false);
    };
    if backend == DbBackend::Postgres {
        // The holder may run a long migration.
        connection.execute_unprepared("SET statement_timeout = 0").await?;
    }
    Ok(row.try_get::<i32>("", "is_acquired")? == 1)
}

/// Whether `connection`, which must be a pool of one, still holds the lock.
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

/// SQL expression for the lock's name. Names are global to a MySQL server, so it includes the
/// database.
fn mysql_lock_name(lock: DatabaseLock) -> String {
    format!("CONCAT('osproxy {} ', MD5(DATABASE()))", lock as i32)
}
