//! What differs between databases.

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

use super::server::Suspicion;
use crate::config::{DatabaseServer, Driver, SslMode, Target};

/// How many connections read from `SQLite` at the same time, where that many questions come at once. Each is used as long as its
/// task waits to go on, which is what takes time where there is much to do.
const SQLITE_READERS: u32 = 32;
/// How many of them there are from the start.
const SQLITE_READY: u32 = 4;

/// How long a statement waits for another process, such as a command-line tool, to end its transaction.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How many statements each connection to a server keeps prepared: all that there are, lists of several lengths too.
const PREPARED: usize = 512;

/// What locks of this program are called on a `PostgreSQL` server, beside a number of their own.
const LOCK_SPACE: i32 = 0x6f73_7078;

/// The one connection that writes: `SQLite` has one writer at a time, so within the process writers queue for it.
/// The file is its owner's alone, since it holds the secrets that sign links; what `SQLite` puts beside it is like it.
pub(super) async fn sqlite_writer(path: &Path) -> Result<DatabaseConnection, DbErr> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let created = rustix::fs::open(path, flags, Mode::from_bits_retain(0o600));
    created.map_err(|error| DbErr::Conn(RuntimeErr::Internal(error.to_string())))?;
    sqlite(path, 1, false).await
}

pub(super) async fn sqlite_reader(path: &Path) -> Result<DatabaseConnection, DbErr> {
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
            // What a savepoint needs to be undone stays in memory: a temporary file may find its disk full.
            let options = if read_only { options } else { options.pragma("temp_store", "MEMORY") };
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
                .busy_timeout(SQLITE_BUSY_TIMEOUT)
        });
    unattended(&mut options);
    Database::connect(options).await
}

/// Keeps the pool from looking after its connections by itself: in sqlx 0.9.0 that may begin to count down from
/// `usize::MAX` without ever letting go of its thread (transact-rs/sqlx#3645).
fn unattended(options: &mut ConnectOptions) {
    options.idle_timeout(None).max_lifetime(None);
}

/// Closes connections that are idle at this moment, and more than `keep`.
pub(super) async fn close_idle(connection: &DatabaseConnection, keep: u32) {
    match connection.get_database_backend() {
        DbBackend::Postgres => close_idle_of(connection.get_postgres_connection_pool(), keep).await,
        DbBackend::MySql => close_idle_of(connection.get_mysql_connection_pool(), keep).await,
        _ => {}
    }
}

/// How the connections of a pool are used.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolUse {
    /// How many there are, used or not.
    pub(super) connections: u32,
    /// How many of them nobody uses.
    pub(super) idle: u32,
    /// How many there may be.
    pub(super) max: u32,
}

pub(super) fn pool(connection: &DatabaseConnection) -> PoolUse {
    match connection.get_database_backend() {
        DbBackend::Postgres => pool_of(connection.get_postgres_connection_pool()),
        DbBackend::MySql => pool_of(connection.get_mysql_connection_pool()),
        _ => pool_of(connection.get_sqlite_connection_pool()),
    }
}

fn pool_of<D: sqlx::Database>(pool: &sqlx::Pool<D>) -> PoolUse {
    PoolUse {
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
            tracing::debug!(%error, "an idle connection did not end as it should");
        }
    }
}

/// Tries all idle connections at once, and closes those that do not answer in time. Meanwhile they keep their places.
pub(super) async fn close_dead(connection: &DatabaseConnection, patience: Duration) {
    match connection.get_database_backend() {
        DbBackend::Postgres => close_dead_of(connection.get_postgres_connection_pool(), patience).await,
        DbBackend::MySql => close_dead_of(connection.get_mysql_connection_pool(), patience).await,
        _ => {}
    }
}

async fn close_dead_of<D: sqlx::Database>(pool: &sqlx::Pool<D>, patience: Duration) {
    let idle = std::iter::from_fn(|| pool.try_acquire()).take(pool.num_idle());
    let trying = idle.map(|mut connection| async move {
        if !matches!(tokio::time::timeout(patience, connection.ping()).await, Ok(Ok(()))) {
            // Without a farewell, which nobody may take.
            drop(connection.detach());
        }
    });
    futures_util::future::join_all(trying.collect::<Vec<_>>()).await;
}

/// How connections to a server are made, and what decides whether one goes back to the pool.
pub(super) struct ServerOptions {
    pub(super) options: ConnectOptions,
    pub(super) suspicion: Arc<Suspicion>,
}

/// How connections to a server are made. Nothing is connected before it is needed.
pub(super) fn server_options(server: &DatabaseServer) -> Result<ServerOptions, DbErr> {
    let timeout = Duration::from_secs(server.timeout);
    let suspicion = Arc::<Suspicion>::default();
    // The drivers are told what they need by what follows; the url only says which one it is.
    let mut options = match server.driver {
        Driver::Postgres => postgres_options(server, timeout, suspicion.clone())?,
        Driver::Mysql | Driver::Sqlite => mysql_options(server, timeout, suspicion.clone())?,
    };
    options
        .max_connections(server.max_open_conns)
        .min_connections(Ord::min(server.max_idle_conns, server.max_open_conns))
        // Asking each time whether the connection still lives would double the questions.
        .test_before_acquire(false)
        .acquire_timeout(timeout / 2)
        .connect_lazy(true);
    unattended(&mut options);
    Ok(ServerOptions { options, suspicion })
}

fn postgres_options(
    server: &DatabaseServer,
    timeout: Duration,
    suspicion: Arc<Suspicion>,
) -> Result<ConnectOptions, DbErr> {
    let connect = match &server.target {
        Target::Url(url) => url.reveal().parse::<PgConnectOptions>().map_err(|error| unusable_url(&error))?,
        Target::Fields { host, port, database, username, password, sslmode, sslrootcert } => {
            let mut connect = PgConnectOptions::new_without_pgpass()
                .host(host)
                .port(*port)
                .database(database)
                .username(username)
                .ssl_mode(match sslmode {
                    SslMode::Disable => PgSslMode::Disable,
                    SslMode::Prefer => PgSslMode::Prefer,
                    SslMode::Require => PgSslMode::Require,
                    SslMode::VerifyCa => PgSslMode::VerifyCa,
                    SslMode::VerifyFull => PgSslMode::VerifyFull,
                });
            if let Some(password) = password {
                connect = connect.password(password.reveal());
            }
            if let Some(certificates) = sslrootcert {
                connect = connect.ssl_root_cert(certificates);
            }
            connect
        }
    };
    let connect =
        connect.application_name("osproxy").statement_cache_capacity(PREPARED).disable_statement_logging();
    // What was given up here is given up there too: behind a pulled cable nobody holds rows for hours.
    let prepare = format!(
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED; \
         SET statement_timeout = {limit}; SET idle_in_transaction_session_timeout = {limit}",
        limit = timeout.as_millis()
    );
    let mut options = ConnectOptions::new("postgres://configured");
    options.map_sqlx_postgres_opts(move |_| connect.clone()).map_sqlx_postgres_pool_opts(move |pool| {
        let (prepare, suspicion) = (prepare.clone(), suspicion.clone());
        let pool = pool.after_connect(move |connection, _| {
            let prepare = sqlx::AssertSqlSafe(prepare.clone());
            Box::pin(async move { connection.execute(prepare).await.map(drop) })
        });
        pool.after_release(move |connection, _| {
            let suspicion = suspicion.clone();
            Box::pin(async move { suspicion.check(connection, timeout).await })
        })
    });
    Ok(options)
}

fn mysql_options(
    server: &DatabaseServer,
    timeout: Duration,
    suspicion: Arc<Suspicion>,
) -> Result<ConnectOptions, DbErr> {
    let connect = match &server.target {
        Target::Url(url) => {
            url.reveal().parse::<MySqlConnectOptions>().map_err(|error| unusable_url(&error))?
        }
        Target::Fields { host, port, database, username, password, sslmode, sslrootcert } => {
            let mut connect = MySqlConnectOptions::new()
                .host(host)
                .port(*port)
                .database(database)
                .username(username)
                .ssl_mode(match sslmode {
                    SslMode::Disable => MySqlSslMode::Disabled,
                    SslMode::Prefer => MySqlSslMode::Preferred,
                    SslMode::Require => MySqlSslMode::Required,
                    SslMode::VerifyCa => MySqlSslMode::VerifyCa,
                    SslMode::VerifyFull => MySqlSslMode::VerifyIdentity,
                });
            if let Some(password) = password {
                connect = connect.password(password.reveal());
            }
            if let Some(certificates) = sslrootcert {
                connect = connect.ssl_ca(certificates);
            }
            connect
        }
    };
    let connect = connect.statement_cache_capacity(PREPARED).disable_statement_logging();
    // All databases mean the same by a transaction; who waits for a row gives up when we do, statements end then, and
    // behind a pulled cable nobody holds rows for hours. MySQL does not read the last comments: it lets go after its
    // `wait_timeout`.
    let prepare = format!(
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
         SET SESSION innodb_lock_wait_timeout = {limit}; \
         /*M!100300 SET SESSION idle_transaction_timeout = {limit}, SESSION max_statement_time = {limit} */",
        limit = Ord::max(timeout.as_secs(), 1)
    );
    let mut options = ConnectOptions::new("mysql://configured");
    options.map_sqlx_mysql_opts(move |_| connect.clone()).map_sqlx_mysql_pool_opts(move |pool| {
        let (prepare, suspicion) = (prepare.clone(), suspicion.clone());
        let pool = pool.after_connect(move |connection, _| {
            let prepare = sqlx::AssertSqlSafe(prepare.clone());
            Box::pin(async move { connection.execute(prepare).await.map(drop) })
        });
        pool.after_release(move |connection, _| {
            let suspicion = suspicion.clone();
            Box::pin(async move { suspicion.check(connection, timeout).await })
        })
    });
    Ok(options)
}

/// The url itself is a secret.
fn unusable_url(error: &sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(format!("the url of the database cannot be used: {error}")))
}

/// Where a server is and what the database is called there, for people.
pub(super) fn server_name(server: &DatabaseServer) -> String {
    let (host, port, database) = match (&server.target, server.driver) {
        (Target::Fields { host, port, database, .. }, _) => (host.clone(), *port, Some(database.clone())),
        (Target::Url(url), Driver::Postgres) => match url.reveal().parse::<PgConnectOptions>() {
            Ok(options) => (
                options.get_host().to_owned(),
                options.get_port(),
                Some(options.get_database().unwrap_or_else(|| options.get_username()).to_owned()),
            ),
            Err(_) => return "given by `database.url`".to_owned(),
        },
        (Target::Url(url), _) => match url.reveal().parse::<MySqlConnectOptions>() {
            Ok(options) => {
                (options.get_host().to_owned(), options.get_port(), options.get_database().map(str::to_owned))
            }
            Err(_) => return "given by `database.url`".to_owned(),
        },
    };
    format!("{:?} on {host}:{port}", database.unwrap_or_default())
}

/// Begins a transaction that will write. A deferred one of `SQLite` would fail with "database is locked"
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
/// same. `None`: it is that of this process.
pub(super) async fn clock_ms(connection: &impl ConnectionTrait) -> Result<Option<i64>, DbErr> {
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

/// A sum of whole numbers that is one too; the databases make other numbers of it.
pub(super) fn whole_sum(backend: DbBackend, column: impl ColumnTrait) -> Expr {
    whole_sum_of(backend, column.into_expr())
}

/// The same of what is computed.
pub(super) fn whole_sum_of(backend: DbBackend, number: Expr) -> Expr {
    number.sum().cast_as(if backend == DbBackend::MySql { "SIGNED" } else { "BIGINT" })
}

/// How many bytes of a name its file is found and ordered by: as many as an index takes on every database.
pub(super) const NAME_START: u32 = 255;

/// The first bytes of a file's name, whatever characters they belong to.
pub(super) fn name_start(backend: DbBackend) -> Expr {
    Expr::cust(match backend {
        DbBackend::Postgres => format!("substring(convert_to(name, 'UTF8') from 1 for {NAME_START})"),
        DbBackend::MySql => format!("SUBSTRING(CAST(name AS BINARY), 1, {NAME_START})"),
        _ => format!("CAST(substr(CAST(name AS BLOB), 1, {NAME_START}) AS BLOB)"),
    })
}

/// What files are ordered by, and found behind. `PostgreSQL` takes what it looks for to lie evenly among the rest; where it
/// may walk along the primary key, it would rather read past all that is gone than use an index that leaves it out. In
/// this spelling only the indices of listings offer the order.
pub(super) fn listed_uid(backend: DbBackend) -> Expr {
    Expr::cust(if backend == DbBackend::Postgres { "(files.uid + 0)" } else { "files.uid" })
}

/// How an index of files by these columns and then by [`listed_uid`] is made, if it is not there.
pub(super) fn listing_index(backend: DbBackend, name: &str, columns: &str) -> String {
    let uid = if backend == DbBackend::Postgres { "(uid + 0)" } else { "uid" };
    format!("CREATE INDEX {name} ON files ({columns}, {uid})")
}

/// Text that may be longer than 64 KiB, which is all that `MySQL` means by that.
pub(super) fn long_text(backend: DbBackend, column: &mut ColumnDef) -> &mut ColumnDef {
    if backend == DbBackend::MySql { column.custom("MEDIUMTEXT") } else { column.text() }
}

/// Text is kept byte for byte and compared so, whatever the server's default is.
pub(super) fn table(backend: DbBackend, mut table: TableCreateStatement) -> TableCreateStatement {
    if backend == DbBackend::MySql {
        table.character_set("utf8mb4").collate("utf8mb4_bin").engine("InnoDB");
    }
    table
}

/// A lock of a connection's, on a whole database: it is given back when the connection ends.
#[derive(Clone, Copy)]
pub(super) enum Lock {
    /// Held while tables are made.
    Migrate = 1,
    /// Held by a node that shares the database with no other.
    Alone = 2,
}

/// Takes a lock for a connection, which is the pool's only one, or waits for it up to `wait`, to the second.
/// `false`: another has it.
pub(super) async fn lock(connection: &DatabaseConnection, lock: Lock, wait: Duration) -> Result<bool, DbErr> {
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
            // Who holds it, or waits for it, may have long work to do.
            let unlimited = "SET @osproxy = 0 /*M!100300 , SESSION max_statement_time = 0 */";
            connection.execute_unprepared(unlimited).await?;
            format!("SELECT COALESCE(GET_LOCK({}, {}), 0) AS taken", mysql_lock(lock), wait.as_secs())
        }
        // The one process that writes holds a lock on a file.
        _ => return Ok(true),
    };
    let Some(row) = connection.query_one_raw(Statement::from_string(backend, sql)).await? else {
        return Ok(false);
    };
    if backend == DbBackend::Postgres {
        // Who holds it may have long work to do.
        connection.execute_unprepared("SET statement_timeout = 0").await?;
    }
    Ok(row.try_get::<i32>("", "taken")? == 1)
}

/// Whether a connection, which is the pool's only one, still has its lock.
pub(super) async fn still_locked(connection: &DatabaseConnection, lock: Lock) -> Result<bool, DbErr> {
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

/// A lock's name, which on such servers all databases share.
fn mysql_lock(lock: Lock) -> String {
    format!("CONCAT('osproxy {} ', MD5(DATABASE()))", lock as i32)
}

/// What is wrong when a database cannot be opened, for people.
pub(super) fn explain(server: &DatabaseServer, error: &DbErr) -> String {
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
            format!("the database {name} refuses the user or the password")
        }
        Some("away") => format!("the database {name} cannot be reached"),
        _ => format!("cannot open the database {name}: {error}"),
    }
}
