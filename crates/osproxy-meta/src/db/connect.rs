//! Connection options of each kind of database, and error messages for failed connections.

use std::{path::Path, sync::Arc, time::Duration};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DbErr, RuntimeErr,
    sqlx::{
        self, ConnectOptions as _, Executor,
        mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlSslMode},
        postgres::{PgConnectOptions, PgSslMode},
        sqlite::{SqliteJournalMode, SqliteSynchronous},
    },
};

use crate::db::server_pool::RecentFailure;
use crate::{DatabaseServer, DatabaseTarget, ServerKind, TlsMode, boxed_future};

/// Maximum number of connections for long queries to SQLite. Under load, a task holds its connection
/// while the task waits to be polled. So the limit is higher than the number of reads that the disk
/// can serve concurrently.
const SQLITE_READERS: u32 = 32;
/// Maximum number of connections for lookups in SQLite. A lookup ends before its thread does
/// anything else, so more connections than threads are of no use.
const SQLITE_LOOKUPS: u32 = 8;
/// Number of reading connections that are opened at startup.
const SQLITE_MIN_READERS: u32 = 4;

/// How long a statement waits for the transaction of another process, such as a command-line tool.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements cached per server connection: enough for all statements, including the
/// variants of `IN` lists with different lengths.
const STATEMENT_CACHE_SIZE: usize = 512;

/// Opens the only connection of this process that writes. SQLite allows one writer at a time, so
/// write transactions queue for this connection. Creates a missing file with mode 0600, because the
/// database contains the secrets that sign links. SQLite creates the `-wal` and `-shm` files with
/// the same mode.
pub(crate) async fn sqlite_writer(path: &Path) -> Result<DatabaseConnection, DbErr> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::from_bits_retain(0o600)) {
        // An existing file is not opened: closing any descriptor of a file releases all locks that
        // other connections of this process have on it.
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(DbErr::Conn(RuntimeErr::Internal(error.to_string()))),
    }
    sqlite(path, SqliteUse::Write).await
}

/// Opens connections for queries that may take long. Each has its own thread.
pub(crate) async fn sqlite_reader(path: &Path) -> Result<DatabaseConnection, DbErr> {
    sqlite(path, SqliteUse::Scan).await
}

/// Opens connections for queries that read a few rows by an index. They run on the thread that
/// polls them.
pub(crate) async fn sqlite_lookups(path: &Path) -> Result<DatabaseConnection, DbErr> {
    sqlite(path, SqliteUse::Lookup).await
}

/// What connections to SQLite are used for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SqliteUse {
    Write,
    Scan,
    Lookup,
}

async fn sqlite(path: &Path, used_for: SqliteUse) -> Result<DatabaseConnection, DbErr> {
    let read_only = used_for != SqliteUse::Write;
    let connections = match used_for {
        SqliteUse::Write => 1,
        SqliteUse::Scan => SQLITE_READERS,
        SqliteUse::Lookup => SQLITE_LOOKUPS,
    };
    let mut options = ConnectOptions::new("sqlite::memory:");
    let path = path.to_owned();
    options
        .max_connections(connections)
        .min_connections(Ord::min(connections, SQLITE_MIN_READERS))
        .test_before_acquire(false)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |options| {
            // Keep savepoint journals in memory: writing a temporary file could fail on a full
            // disk.
            let options = if read_only { options } else { options.pragma("temp_store", "MEMORY") };
            options
                .filename(&path)
                .in_memory(false)
                .shared_cache(false)
                .create_if_missing(!read_only)
                .read_only(read_only)
                .on_caller_thread(used_for != SqliteUse::Scan)
                .journal_mode(SqliteJournalMode::Wal)
                // A commit returns only after its changes have reached the disk.
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(true)
                .busy_timeout(SQLITE_BUSY_TIMEOUT)
        });
    disable_pool_maintenance(&mut options);
    open(options).await
}

/// Opens a connection pool.
#[boxed_future]
pub(crate) async fn open(options: ConnectOptions) -> Result<DatabaseConnection, DbErr> {
    Database::connect(options).await
}

/// Disables the pool's maintenance task, which closes idle and old connections. In sqlx 0.9.0 the
/// task can count down from `usize::MAX` in a loop that never yields its thread
/// (transact-rs/sqlx#3645).
fn disable_pool_maintenance(options: &mut ConnectOptions) {
    options.idle_timeout(None).max_lifetime(None);
}

/// Options of a server's connection pool, and the failure record that decides whether a released
/// connection returns to the pool.
pub(crate) struct ServerOptions {
    pub(crate) options: ConnectOptions,
    pub(crate) recent_failure: Arc<RecentFailure>,
}

/// Builds the pool options for a server. Connections are opened on first use.
pub(crate) fn server_options(server: &DatabaseServer) -> Result<ServerOptions, DbErr> {
    let timeout = server.timeout;
    let recent_failure = Arc::<RecentFailure>::default();
    // Callbacks in `ConnectOptions` set the options of the driver; the URL only selects the driver.
    let mut options = match server.kind {
        ServerKind::Postgres => postgres_options(server, timeout, recent_failure.clone())?,
        ServerKind::MySql => mysql_options(server, timeout, recent_failure.clone())?,
    };
    options
        .max_connections(server.max_connections)
        .min_connections(Ord::min(server.max_idle_connections, server.max_connections))
        // A ping before each use would double the number of round trips.
        .test_before_acquire(false)
        .acquire_timeout(timeout / 2)
        .connect_lazy(true);
    disable_pool_maintenance(&mut options);
    Ok(ServerOptions { options, recent_failure })
}

fn postgres_options(
    server: &DatabaseServer,
    timeout: Duration,
    recent_failure: Arc<RecentFailure>,
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
    let connect = connect
        .application_name("osproxy")
        .statement_cache_capacity(STATEMENT_CACHE_SIZE)
        .disable_statement_logging();
    // Apply `timeout` on the server too. If the network to a node fails, the server then soon
    // releases the row locks of that node.
    let session_setup = format!(
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED; \
         SET statement_timeout = {limit}; SET idle_in_transaction_session_timeout = {limit}",
        limit = timeout.as_millis()
    );
    let mut options = ConnectOptions::new("postgres://configured");
    options.map_sqlx_postgres_opts(move |_| connect.clone()).map_sqlx_postgres_pool_opts(move |pool| {
        let (session_setup, recent_failure) = (session_setup.clone(), recent_failure.clone());
        let pool = pool.after_connect(move |connection, _| {
            let session_setup = sqlx::AssertSqlSafe(session_setup.clone());
            Box::pin(async move { connection.execute(session_setup).await.map(drop) })
        });
        pool.after_release(move |connection, _| {
            let recent_failure = recent_failure.clone();
            Box::pin(async move { recent_failure.check_released(connection, timeout).await })
        })
    });
    Ok(options)
}

fn mysql_options(
    server: &DatabaseServer,
    timeout: Duration,
    recent_failure: Arc<RecentFailure>,
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
    let connect = connect.statement_cache_capacity(STATEMENT_CACHE_SIZE).disable_statement_logging();
    // Use the same isolation level on all servers, and limit lock waits to `timeout`. Only MariaDB
    // executes the comment at the end, which limits statements and idle transactions too. If the
    // network to a node fails, MariaDB therefore releases the node's row locks soon; MySQL releases
    // them after its `wait_timeout`.
    let session_setup = format!(
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
         SET SESSION innodb_lock_wait_timeout = {limit}; \
         /*M!100300 SET SESSION idle_transaction_timeout = {limit}, SESSION max_statement_time = {limit} */",
        limit = Ord::max(timeout.as_secs(), 1)
    );
    let mut options = ConnectOptions::new("mysql://configured");
    options.map_sqlx_mysql_opts(move |_| connect.clone()).map_sqlx_mysql_pool_opts(move |pool| {
        let (session_setup, recent_failure) = (session_setup.clone(), recent_failure.clone());
        let pool = pool.after_connect(move |connection, _| {
            let session_setup = sqlx::AssertSqlSafe(session_setup.clone());
            Box::pin(async move { connection.execute(session_setup).await.map(drop) })
        });
        pool.after_release(move |connection, _| {
            let recent_failure = recent_failure.clone();
            Box::pin(async move { recent_failure.check_released(connection, timeout).await })
        })
    });
    Ok(options)
}

/// Returns an error that omits the URL, because the URL contains the password.
fn invalid_url(error: &sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(format!("the database URL is not valid: {error}")))
}

/// Describes the database for messages: its name, host and port, or only the name of the setting if
/// the URL is invalid.
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
