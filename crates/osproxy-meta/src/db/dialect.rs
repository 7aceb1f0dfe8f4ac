//! Differences between SQLite, PostgreSQL and MySQL/MariaDB: connection options, locks and
//! SQL expressions.

use std::{path::Path, sync::Arc, time::Duration};

use rustix::fs::{Mode, OFlags};
use sea_orm::{
    ColumnTrait, ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction,
    DbBackend, DbErr, RuntimeErr, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
    sea_query::{ColumnDef, Expr, ExprTrait, TableCreateStatement},
    sqlx::{
        self, ConnectOptions as _, Connection, Executor,
        mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlSslMode},
        postgres::{PgConnectOptions, PgSslMode},
        sqlite::{SqliteJournalMode, SqliteSynchronous},
    },
};

use crate::db::server_pool::RecentFailure;
use crate::{DatabaseServer, DatabaseTarget, ServerKind, TlsMode};

/// Maximum number of connections that read from SQLite. Under load a connection stays checked out
/// while its task waits to be polled, so this is more than the disk could use.
const SQLITE_READERS: u32 = 32;
/// Number of connections that are opened at start.
const SQLITE_READY: u32 = 4;

/// How long a statement waits for a transaction of another process, such as a command-line tool.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements cached per server connection: enough for all statements, including the
/// variants of `IN` lists with different lengths.
const PREPARED: usize = 512;

/// First key of osproxy's advisory locks in PostgreSQL; the second is the lock's number.
const LOCK_SPACE: i32 = 0x6f73_7078;

/// Opens the only writing connection: SQLite allows one writer at a time, so writers in this
/// process queue for it. A new file is readable by its owner only, since it holds the secrets that
/// sign links; SQLite gives its side files the same mode.
pub(crate) async fn sqlite_writer(path: &Path) -> Result<DatabaseConnection, DbErr> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let created = rustix::fs::open(path, flags, Mode::from_bits_retain(0o600));
    created.map_err(|error| DbErr::Conn(RuntimeErr::Internal(error.to_string())))?;
    sqlite(path, 1, false).await
}

pub(crate) async fn sqlite_reader(path: &Path) -> Result<DatabaseConnection, DbErr> {
    sqlite(path, SQLITE_READERS, true).await
}

async fn sqlite(path: &Path, connections: u32, read_only: bool) -> Result<DatabaseConnection, DbErr> {
    let mut options = ConnectOptions::new("sqlite::memory:");
    let path = path.to_owned();
    options
        .max_connections(connections)
        .min_connections(Ord::min(connections, SQLITE_READY))
        .test_before_acquire(false)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |options| {
            // Keep savepoint journals in memory: a temporary file could fail on a full disk.
            let options = if read_only { options } else { options.pragma("temp_store", "MEMORY") };
            options
                .filename(&path)
                .in_memory(false)
                .shared_cache(false)
                .create_if_missing(!read_only)
                .read_only(read_only)
                .journal_mode(SqliteJournalMode::Wal)
                // A commit has reached the disk when it returns.
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(true)
                .busy_timeout(SQLITE_BUSY_TIMEOUT)
        });
    disable_pool_maintenance(&mut options);
    Database::connect(options).await
}

/// Disables the pool's maintenance of its own connections: in sqlx 0.9.0 it may count down from
/// `usize::MAX` in a loop that never yields its thread (transact-rs/sqlx#3645).
fn disable_pool_maintenance(options: &mut ConnectOptions) {
    options.idle_timeout(None).max_lifetime(None);
}

/// Closes connections that are idle now, until `keep` connections remain.
pub(crate) async fn close_idle(connection: &DatabaseConnection, keep: u32) {
    match connection.get_database_backend() {
        DbBackend::Postgres => close_idle_of(connection.get_postgres_connection_pool(), keep).await,
        DbBackend::MySql => close_idle_of(connection.get_mysql_connection_pool(), keep).await,
        _ => {}
    }
}

/// Usage of a connection pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolUsage {
    /// Open connections, idle or in use.
    pub(crate) connections: u32,
    /// Idle connections.
    pub(crate) idle: u32,
    /// Maximum number of connections.
    pub(crate) max: u32,
}

pub(crate) fn pool_usage(connection: &DatabaseConnection) -> PoolUsage {
    match connection.get_database_backend() {
        DbBackend::Postgres => usage_of(connection.get_postgres_connection_pool()),
        DbBackend::MySql => usage_of(connection.get_mysql_connection_pool()),
        _ => usage_of(connection.get_sqlite_connection_pool()),
    }
}

fn usage_of<D: sqlx::Database>(pool: &sqlx::Pool<D>) -> PoolUsage {
    PoolUsage {
        connections: pool.size(),
        idle: u32::try_from(pool.num_idle()).unwrap_or(u32::MAX),
        max: pool.options().get_max_connections(),
    }
}

async fn close_idle_of<D: sqlx::Database>(pool: &sqlx::Pool<D>, keep: u32) {
    for _ in keep..pool.size() {
        let Some(idle) = pool.try_acquire() else {
            return;
        };
        if let Err(error) = idle.close().await {
            tracing::debug!(%error, "cannot close an idle database connection");
        }
    }
}

/// Pings all idle connections concurrently, and closes those that do not answer within
/// `ping_timeout`. They count towards the pool's limit in the meantime.
pub(crate) async fn close_dead(connection: &DatabaseConnection, ping_timeout: Duration) {
    match connection.get_database_backend() {
        DbBackend::Postgres => close_dead_of(connection.get_postgres_connection_pool(), ping_timeout).await,
        DbBackend::MySql => close_dead_of(connection.get_mysql_connection_pool(), ping_timeout).await,
        _ => {}
    }
}

async fn close_dead_of<D: sqlx::Database>(pool: &sqlx::Pool<D>, ping_timeout: Duration) {
    let idle = std::iter::from_fn(|| pool.try_acquire()).take(pool.num_idle());
    let trying = idle.map(|mut connection| async move {
        if !matches!(tokio::time::timeout(ping_timeout, connection.ping()).await, Ok(Ok(()))) {
            // Close without sending the protocol's termination message, which could block.
            drop(connection.detach());
        }
    });
    futures_util::future::join_all(trying.collect::<Vec<_>>()).await;
}

/// Options of a connection pool, and the state that decides whether a connection returns to it.
pub(crate) struct ServerOptions {
    pub(crate) options: ConnectOptions,
    pub(crate) suspicion: Arc<RecentFailure>,
}

/// Builds the pool options for a server. Connections are opened on first use.
pub(crate) fn server_options(server: &DatabaseServer) -> Result<ServerOptions, DbErr> {
    let timeout = server.timeout;
    let suspicion = Arc::<RecentFailure>::default();
    // The drivers get their options from the callbacks below; the URL only selects the driver.
    let mut options = match server.kind {
        ServerKind::Postgres => postgres_options(server, timeout, suspicion.clone())?,
        ServerKind::MySql => mysql_options(server, timeout, suspicion.clone())?,
    };
    options
        .max_connections(server.max_connections)
        .min_connections(Ord::min(server.max_idle_connections, server.max_connections))
        // A ping before each use would double the number of round trips.
        .test_before_acquire(false)
        .acquire_timeout(timeout / 2)
        .connect_lazy(true);
    disable_pool_maintenance(&mut options);
    Ok(ServerOptions { options, suspicion })
}

fn postgres_options(
    server: &DatabaseServer,
    timeout: Duration,
    suspicion: Arc<RecentFailure>,
) -> Result<ConnectOptions, DbErr> {
    let connect = match &server.target {
        DatabaseTarget::Url(url) => {
            url.reveal().parse::<PgConnectOptions>().map_err(|error| invalid_url(&error))?
        }
        DatabaseTarget::Fields { host, port, database, username, password, tls, ca_file } => {
            let mut connect = PgConnectOptions::new_without_pgpass()
                .host(host)
                .port(*port)
                .database(database)
                .username(username)
                .ssl_mode(match tls {
                    TlsMode::Disable => PgSslMode::Disable,
                    TlsMode::Prefer => PgSslMode::Prefer,
                    TlsMode::Require => PgSslMode::Require,
                    TlsMode::VerifyCa => PgSslMode::VerifyCa,
                    TlsMode::VerifyFull => PgSslMode::VerifyFull,
                });
            if let Some(password) = password {
                connect = connect.password(password.reveal());
            }
            if let Some(certificates) = ca_file {
                connect = connect.ssl_root_cert(certificates);
            }
            connect
        }
    };
    let connect =
        connect.application_name("osproxy").statement_cache_capacity(PREPARED).disable_statement_logging();
    // Apply our timeout on the server too, so that it releases row locks soon after the network to
    // a node fails.
    let session_setup = format!(
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED; \
         SET statement_timeout = {limit}; SET idle_in_transaction_session_timeout = {limit}",
        limit = timeout.as_millis()
    );
    let mut options = ConnectOptions::new("postgres://configured");
    options.map_sqlx_postgres_opts(move |_| connect.clone()).map_sqlx_postgres_pool_opts(move |pool| {
        let (prepare, suspicion) = (session_setup.clone(), suspicion.clone());
        let pool = pool.after_connect(move |connection, _| {
            let prepare = sqlx::AssertSqlSafe(prepare.clone());
            Box::pin(async move { connection.execute(prepare).await.map(drop) })
        });
        pool.after_release(move |connection, _| {
            let suspicion = suspicion.clone();
            Box::pin(async move { suspicion.check_released(connection, timeout).await })
        })
    });
    Ok(options)
}

fn mysql_options(
    server: &DatabaseServer,
    timeout: Duration,
    suspicion: Arc<RecentFailure>,
) -> Result<ConnectOptions, DbErr> {
    let connect = match &server.target {
        DatabaseTarget::Url(url) => {
            url.reveal().parse::<MySqlConnectOptions>().map_err(|error| invalid_url(&error))?
        }
        DatabaseTarget::Fields { host, port, database, username, password, tls, ca_file } => {
            let mut connect = MySqlConnectOptions::new()
                .host(host)
                .port(*port)
                .database(database)
                .username(username)
                .ssl_mode(match tls {
                    TlsMode::Disable => MySqlSslMode::Disabled,
                    TlsMode::Prefer => MySqlSslMode::Preferred,
                    TlsMode::Require => MySqlSslMode::Required,
                    TlsMode::VerifyCa => MySqlSslMode::VerifyCa,
                    TlsMode::VerifyFull => MySqlSslMode::VerifyIdentity,
                });
            if let Some(password) = password {
                connect = connect.password(password.reveal());
            }
            if let Some(certificates) = ca_file {
                connect = connect.ssl_ca(certificates);
            }
            connect
        }
    };
    let connect = connect.statement_cache_capacity(PREPARED).disable_statement_logging();
    // Use the same isolation level on all databases. Apply our timeout to lock waits and statements
    // too, so that the server releases row locks soon after the network to a node fails. Only
    // MariaDB executes the last comment; MySQL releases locks after its `wait_timeout`.
    let session_setup = format!(
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
         SET SESSION innodb_lock_wait_timeout = {limit}; \
         /*M!100300 SET SESSION idle_transaction_timeout = {limit}, SESSION max_statement_time = {limit} */",
        limit = Ord::max(timeout.as_secs(), 1)
    );
    let mut options = ConnectOptions::new("mysql://configured");
    options.map_sqlx_mysql_opts(move |_| connect.clone()).map_sqlx_mysql_pool_opts(move |pool| {
        let (prepare, suspicion) = (session_setup.clone(), suspicion.clone());
        let pool = pool.after_connect(move |connection, _| {
            let prepare = sqlx::AssertSqlSafe(prepare.clone());
            Box::pin(async move { connection.execute(prepare).await.map(drop) })
        });
        pool.after_release(move |connection, _| {
            let suspicion = suspicion.clone();
            Box::pin(async move { suspicion.check_released(connection, timeout).await })
        })
    });
    Ok(options)
}

/// Builds an error without the URL, which contains the password.
fn invalid_url(error: &sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(format!("the database URL is not valid: {error}")))
}

/// Returns database name, host and port, for messages.
pub(crate) fn server_name(server: &DatabaseServer) -> String {
    let (host, port, database) = match (&server.target, server.kind) {
        (DatabaseTarget::Fields { host, port, database, .. }, _) => {
            (host.clone(), *port, Some(database.clone()))
        }
        (DatabaseTarget::Url(url), ServerKind::Postgres) => match url.reveal().parse::<PgConnectOptions>() {
            Ok(options) => (
                options.get_host().to_owned(),
                options.get_port(),
                Some(options.get_database().unwrap_or_else(|| options.get_username()).to_owned()),
            ),
            Err(_) => return "given by `database.url`".to_owned(),
        },
        (DatabaseTarget::Url(url), ServerKind::MySql) => match url.reveal().parse::<MySqlConnectOptions>() {
            Ok(options) => {
                (options.get_host().to_owned(), options.get_port(), options.get_database().map(str::to_owned))
            }
            Err(_) => return "given by `database.url`".to_owned(),
        },
    };
    format!("{:?} on {host}:{port}", database.unwrap_or_default())
}

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

/// A lock on a whole database, owned by a connection and released when that ends.
#[derive(Clone, Copy)]
pub(crate) enum Lock {
    /// Held during migrations, and while the first API key or link key is created.
    Migrate = 1,
    /// Held by a node without Redis, to keep other such nodes off the database.
    Exclusive = 2,
}

/// Takes a lock for `connection`, which must be a pool of one. Waits up to `wait`, in MySQL
/// rounded down to seconds. Returns `false` if another connection holds the lock; in PostgreSQL a
/// wait that times out is an error.
pub(crate) async fn lock(connection: &DatabaseConnection, lock: Lock, wait: Duration) -> Result<bool, DbErr> {
    let backend = connection.get_database_backend();
    let number = lock as i32;
    let sql = match backend {
        DbBackend::Postgres if wait.is_zero() => {
            format!("SELECT pg_try_advisory_lock({LOCK_SPACE}, {number})::INT AS taken")
        }
        DbBackend::Postgres => {
            let limit = wait.as_millis();
            connection.execute_unprepared(&format!("SET statement_timeout = {limit}")).await?;
            format!("SELECT 1 AS taken FROM (SELECT pg_advisory_lock({LOCK_SPACE}, {number})) AS locked")
        }
        DbBackend::MySql => {
            // The holder may run a long migration, and others wait for it as long.
            let unlimited = "SET @osproxy = 0 /*M!100300 , SESSION max_statement_time = 0 */";
            connection.execute_unprepared(unlimited).await?;
            format!("SELECT COALESCE(GET_LOCK({}, {}), 0) AS taken", mysql_lock(lock), wait.as_secs())
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
    Ok(row.try_get::<i32>("", "taken")? == 1)
}

/// Whether `connection`, which must be a pool of one, still holds the lock.
pub(crate) async fn holds_lock(connection: &DatabaseConnection, lock: Lock) -> Result<bool, DbErr> {
    let backend = connection.get_database_backend();
    let sql = match backend {
        DbBackend::MySql => {
            format!("SELECT COALESCE(IS_USED_LOCK({}) = CONNECTION_ID(), 0) AS held", mysql_lock(lock))
        }
        DbBackend::Postgres => format!(
            "SELECT COUNT(*)::INT AS held FROM pg_locks WHERE locktype = 'advisory' AND classid = {LOCK_SPACE} \
             AND objid = {} AND pid = pg_backend_pid() AND granted",
            lock as i32
        ),
        _ => return Ok(true),
    };
    let row = connection.query_one_raw(Statement::from_string(backend, sql)).await?;
    row.map_or(Ok(false), |row| Ok(row.try_get::<i32>("", "held")? == 1))
}

/// SQL expression for the lock's name. Names are global to a MySQL server, so it includes the
/// database.
fn mysql_lock(lock: Lock) -> String {
    format!("CONCAT('osproxy {} ', MD5(DATABASE()))", lock as i32)
}

/// Returns an error message for a database that cannot be opened.
pub(crate) fn open_error_message(server: &DatabaseServer, error: &DbErr) -> String {
    let name = server_name(server);
    let code = match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => {
            error.as_database_error().and_then(|error| match error.try_downcast_ref::<MySqlDatabaseError>() {
                Some(error) => Some(error.number().to_string()),
                None => error.code().map(Into::into),
            })
        }
        DbErr::ConnectionAcquire(_) => Some("away".to_owned()),
        _ => None,
    };
    match code.as_deref() {
        Some("3D000" | "1049") => format!("there is no database {name}; create it first"),
        Some("28P01" | "28000" | "1045" | "1044" | "1698") => {
            format!("the database {name} rejects the user name or the password")
        }
        Some("away") => format!("the database {name} cannot be reached"),
        _ => format!("cannot open the database {name}: {error}"),
    }
}
