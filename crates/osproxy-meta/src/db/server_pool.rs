//! The connection pool of a database server. Limits the number of connections and the duration of
//! each operation, and reconnects after an outage.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    QueryResult, RuntimeErr, Statement, sqlx,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::db::{
    connect::{self, ServerOptions},
    database_lock::{self, DatabaseLock},
    dialect,
    error_class::{RetryClass, retry_class},
    pool::{self, PoolUsage},
    retry::backoff,
    write_batcher::TxEnd,
};

/// Maximum number of retries of a transaction that the server aborts because of a conflict with
/// another transaction.
const MAX_CONFLICTS: u32 = 30;
/// Interval between checks for surplus idle connections.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_mins(1);

/// How long a connection may take to answer a ping before it counts as dead.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// The time of the latest connection failure.
///
/// For twice the timeout after a failure, a released connection returns to the pool only if it
/// answers a ping. So a connection whose statement timed out counts towards the pool's limit as
/// long as the server is possibly still running the statement. PostgreSQL and MariaDB end the
/// statement after the same timeout, so these servers never have more connections than configured.
#[derive(Default)]
pub(crate) struct RecentFailure(Mutex<Option<Instant>>);

impl RecentFailure {
    fn record(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_recent(&self, timeout: Duration) -> bool {
        let last_failure = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last_failure.is_some_and(|last_failure| last_failure.elapsed() < 2 * timeout)
    }

    /// Pings a connection that is about to return to the pool, if a failure is recent. If this
    /// function returns an error, the connection must be closed.
    pub(crate) async fn check_released(
        &self,
        connection: &mut impl sqlx::Connection,
        timeout: Duration,
    ) -> Result<bool, sqlx::Error> {
        if !self.is_recent(timeout) {
            return Ok(true);
        }
        let ping = async {
            match connection.ping().await {
                // This error belongs to the abandoned statement, which the server has just ended.
                // The connection is usable.
                Err(sqlx::Error::Database(_)) => connection.ping().await,
                answer => answer,
            }
        };
        let pinging = tokio::time::timeout(timeout + PING_TIMEOUT, ping).await;
        pinging.unwrap_or_else(|elapsed| Err(sqlx::Error::Io(elapsed.into()))).map(|()| true)
    }
}

/// The connection pool of a database server.
///
/// After a timeout or a broken connection, the pool pings its idle connections and closes those
/// that do not answer. So a slow statement occupies only its own connection, and the first request
/// after an outage gets a live connection.
pub(crate) struct ServerPool {
    connection: DatabaseConnection,
    /// Deadline for a query or a transaction with all its retries.
    timeout: Duration,
    recent_failure: Arc<RecentFailure>,
    /// Options for the connections that hold locks. Each lock has its own connection.
    options: ConnectOptions,
    /// The time when idle connections were last pinged. Locked during the pings.
    last_ping: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

/// Where a transaction failed.
enum TransactionError {
    /// Before the commit: nothing is changed.
    BeforeCommit(DbErr),
    /// During the commit or rollback: the outcome is unknown.
    AtCommit(DbErr),
}

impl ServerPool {
    /// Creates the pool; connections open on demand. Once a minute, closes idle connections while
    /// more than `max_idle` connections are open.
    pub(crate) async fn connect(
        options: ServerOptions,
        timeout: Duration,
        max_idle: u32,
    ) -> Result<Arc<Self>, DbErr> {
        let ServerOptions { options, recent_failure } = options;
        let connection = connect::open(options.clone()).await?;
        let last_ping = Arc::default();
        let server = Arc::new(Self { connection, timeout, recent_failure, options, last_ping });
        let weak = Arc::downgrade(&server);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE_CHECK_INTERVAL).await;
                let Some(server) = weak.upgrade() else {
                    return;
                };
                server.close_idle(max_idle).await;
            }
        });
        Ok(server)
    }

    /// Closes idle connections while more than `max_idle` connections are open.
    pub(crate) async fn close_idle(&self, max_idle: u32) {
        pool::close_idle(&self.connection, max_idle).await;
    }

    pub(crate) fn pool_usage(&self) -> PoolUsage {
        pool::pool_usage(&self.connection)
    }

    /// Acquires a lock, or fails after `wait`. Returns a pool of one connection; closing the pool
    /// releases the lock.
    pub(crate) async fn lock(&self, lock: DatabaseLock, wait: Duration) -> Result<DatabaseConnection, DbErr> {
        let connection = connect::open(with_single_connection(self.options.clone())).await?;
        if database_lock::acquire(&connection, lock, wait).await? {
            return Ok(connection);
        }
        Err(DbErr::Conn(RuntimeErr::Internal(
            "timed out waiting for a lock held by another node; retry later".to_owned(),
        )))
    }

    pub(crate) fn backend(&self) -> sea_orm::DbBackend {
        self.connection.get_database_backend()
    }

    /// Records a connection failure, and spawns a task that pings the idle connections and closes
    /// those that do not answer. Returns the handle of that task.
    fn ping_idle_connections(&self, error: &DbErr) -> JoinHandle<()> {
        let failed_at = Instant::now();
        self.recent_failure.record();
        let error = error.to_string();
        let (connection, last_ping) = (self.connection.clone(), self.last_ping.clone());
        tokio::spawn(async move {
            let mut last_ping = last_ping.lock().await;
            // Skip the pings if another task has started them after this failure.
            if last_ping.is_none_or(|last_ping| last_ping < failed_at) {
                tracing::warn!(error, "a database connection failed or timed out; pinging idle connections");
                *last_ping = Some(Instant::now());
                pool::close_dead(&connection, PING_TIMEOUT).await;
            }
        })
    }

    /// Runs a read-only query. Retries once if the connection is lost.
    pub(crate) async fn read<T, F>(&self, query: impl Fn(DatabaseConnection) -> F) -> Result<T, DbErr>
    where
        F: Future<Output = Result<T, DbErr>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut may_reconnect = true;
        loop {
            let Ok(answer) = timeout_at(deadline, query(self.connection.clone())).await else {
                let error = self.timed_out();
                self.ping_idle_connections(&error);
                return Err(error);
            };
            match answer {
                Err(error) if retry_class(&error) == RetryClass::Disconnected => {
                    let _ = self.ping_idle_connections(&error).await;
                    if !std::mem::take(&mut may_reconnect) {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Runs `work` in a transaction and returns once it is committed or rolled back. Repeats `work`
    /// after a conflict, and once if the connection is lost before the commit. After a timeout, or
    /// an error during the commit or rollback, the outcome is unknown.
    pub(crate) async fn write<T, W>(&self, work: W) -> Result<T, DbErr>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<TxEnd<T>, DbErr>> + Send + 'static,
    {
        let deadline = Instant::now() + self.timeout;
        let (mut may_reconnect, mut conflicts) = (true, 0);
        loop {
            let Ok(outcome) = timeout_at(deadline, transact(&self.connection, &work)).await else {
                let error = self.timed_out();
                self.ping_idle_connections(&error);
                return Err(error);
            };
            let error = match outcome {
                Ok(outcome) => return Ok(outcome),
                Err(TransactionError::AtCommit(error)) => {
                    self.ping_idle_connections(&error);
                    return Err(error);
                }
                Err(TransactionError::BeforeCommit(error)) => error,
            };
            match retry_class(&error) {
                RetryClass::Conflict if conflicts < MAX_CONFLICTS => {
                    conflicts += 1;
                    tokio::time::sleep(backoff(conflicts)).await;
                }
                RetryClass::Disconnected => {
                    let _ = self.ping_idle_connections(&error).await;
                    if !std::mem::take(&mut may_reconnect) {
                        return Err(error);
                    }
                }
                RetryClass::Conflict | RetryClass::Fatal => return Err(error),
            }
        }
    }

    fn timed_out(&self) -> DbErr {
        DbErr::Conn(RuntimeErr::Internal(format!("the database timed out after {}s", self.timeout.as_secs())))
    }
}

/// Limits a pool to one connection, so that all statements run on the connection that holds a lock.
pub(crate) fn with_single_connection(mut options: ConnectOptions) -> ConnectOptions {
    options.max_connections(1).min_connections(0);
    options
}

async fn transact<T, W>(connection: &DatabaseConnection, work: &W) -> Result<T, TransactionError>
where
    W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<TxEnd<T>, DbErr>>,
{
    let transaction = dialect::begin_write(connection).await.map_err(TransactionError::BeforeCommit)?;
    match work(&transaction).await {
        Ok(TxEnd::Commit(outcome)) => {
            transaction.commit().await.map_err(TransactionError::AtCommit)?;
            Ok(outcome)
        }
        Ok(TxEnd::Rollback(outcome)) => {
            // Wait for the rollback, so that the next transaction on this connection cannot become
            // part of this one.
            transaction.rollback().await.map_err(TransactionError::AtCommit)?;
            Ok(outcome)
        }
        Err(error) => match transaction.rollback().await {
            Ok(()) => Err(TransactionError::BeforeCommit(error)),
            Err(_) if retry_class(&error) == RetryClass::Disconnected => {
                Err(TransactionError::BeforeCommit(error))
            }
            Err(error) => Err(TransactionError::AtCommit(error)),
        },
    }
}

/// The connections that this node reads with.
pub(crate) enum Reader {
    /// A pool on the database file.
    Embedded(DatabaseConnection),
    /// A pool on a server.
    Server(Arc<ServerPool>),
}

#[async_trait]
impl ConnectionTrait for Reader {
    fn get_database_backend(&self) -> DbBackend {
        match self {
            Self::Embedded(connection) => connection.get_database_backend(),
            Self::Server(server) => server.backend(),
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        match self {
            Self::Embedded(connection) => connection.execute_raw(statement).await,
            Self::Server(server) => {
                let query = |connection: DatabaseConnection| {
                    let statement = statement.clone();
                    async move { connection.execute_raw(statement).await }
                };
                server.read(query).await
            }
        }
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        match self {
            Self::Embedded(connection) => connection.execute_unprepared(sql).await,
            Self::Server(server) => {
                let query = |connection: DatabaseConnection| {
                    let sql = sql.to_owned();
                    async move { connection.execute_unprepared(&sql).await }
                };
                server.read(query).await
            }
        }
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        match self {
            Self::Embedded(connection) => connection.query_one_raw(statement).await,
            Self::Server(server) => {
                let query = |connection: DatabaseConnection| {
                    let statement = statement.clone();
                    async move { connection.query_one_raw(statement).await }
                };
                server.read(query).await
            }
        }
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match self {
            Self::Embedded(connection) => connection.query_all_raw(statement).await,
            Self::Server(server) => {
                let query = |connection: DatabaseConnection| {
                    let statement = statement.clone();
                    async move { connection.query_all_raw(statement).await }
                };
                server.read(query).await
            }
        }
    }
}
