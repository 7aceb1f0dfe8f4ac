//! Connections to a database server: bounded in number and in time, made anew when the server went and came back.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    ExecResult, QueryResult, RuntimeErr, Statement, sqlx,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::{
    dialect::{self, Lock, PoolUse, ServerOptions},
    failures::{Failure, failure},
    write_queue::Verdict,
};

/// How often work that others got in the way of is begun again.
const CONFLICTS: u32 = 30;
/// How often connections are closed that nobody needs any more.
const IDLE: Duration = Duration::from_mins(1);
/// Longest pause before it is.
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may take to answer a ping before it counts as dead.
const PING: Duration = Duration::from_secs(1);

/// When something went wrong with the server's connections last.
///
/// While that was not long ago, a connection is given back to the pool only once it answers. One whose statement was given
/// up keeps its place until the server has ended the statement, as it does after the same time-out: so there are never
/// more connections than configured, here and on the server.
#[derive(Default)]
pub(super) struct Suspicion(Mutex<Option<Instant>>);

impl Suspicion {
    fn raise(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_raised(&self, timeout: Duration) -> bool {
        let raised = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        raised.is_some_and(|raised| raised.elapsed() < 2 * timeout)
    }

    /// Pings a connection on its way back to the pool, if there is a reason. An error: it must be closed.
    pub(super) async fn check(
        &self,
        connection: &mut impl sqlx::Connection,
        timeout: Duration,
    ) -> Result<bool, sqlx::Error> {
        if !self.is_raised(timeout) {
            return Ok(true);
        }
        let ping = async {
            match connection.ping().await {
                // The answer to the abandoned statement: the server has just ended it, and the connection is fine.
                Err(sqlx::Error::Database(_)) => connection.ping().await,
                answer => answer,
            }
        };
        let pinging = tokio::time::timeout(timeout + PING, ping).await;
        pinging.unwrap_or_else(|elapsed| Err(sqlx::Error::Io(elapsed.into()))).map(|()| true)
    }
}

/// A database server, as this node uses it.
///
/// After a statement got no answer, or a connection broke, the idle connections are tried, and those that are dead are
/// closed. So one slow statement costs one connection for a while, and the first request after an outage finds no dead
/// one.
pub(super) struct Server {
    connection: DatabaseConnection,
    /// How long an answer is waited for.
    timeout: Duration,
    suspicion: Arc<Suspicion>,
    /// What a lock's own connection is made by.
    options: ConnectOptions,
    /// Held while idle connections are tried; says when that was begun last.
    tried: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

/// Where a transaction broke.
enum Broken {
    /// Before its end was asked for: nothing of it stays.
    Before(DbErr),
    /// At its end: it may be done or not.
    AtCommit(DbErr),
}

impl Server {
    /// Connects when that is needed. Of connections that nobody uses any more `max_idle` stay.
    pub(super) async fn connect(
        options: ServerOptions,
        timeout: Duration,
        max_idle: u32,
    ) -> Result<Arc<Self>, DbErr> {
        let ServerOptions { options, suspicion } = options;
        let connection = Database::connect(options.clone()).await?;
        let tried = Arc::default();
        let server = Arc::new(Self { connection, timeout, suspicion, options, tried });
        let known = Arc::downgrade(&server);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE).await;
                let Some(server) = known.upgrade() else {
                    return;
                };
                server.close_idle(max_idle).await;
            }
        });
        Ok(server)
    }

    /// Closes what is idle at this moment beyond `max_idle` connections.
    pub(super) async fn close_idle(&self, max_idle: u32) {
        dialect::close_idle(&self.connection, max_idle).await;
    }

    /// How its connections are used.
    pub(super) fn pool_use(&self) -> PoolUse {
        dialect::pool(&self.connection)
    }

    /// Takes a lock, which ends with the pool of one connection that this gives.
    pub(super) async fn lock(&self, lock: Lock, wait: Duration) -> Result<DatabaseConnection, DbErr> {
        let connection = Database::connect(single(self.options.clone())).await?;
        if dialect::lock(&connection, lock, wait).await? {
            return Ok(connection);
        }
        Err(DbErr::Conn(RuntimeErr::Internal("another node holds a lock for too long".to_owned())))
    }

    /// Which kind of database it is.
    pub(super) fn backend(&self) -> sea_orm::DbBackend {
        self.connection.get_database_backend()
    }

    /// Takes note of an error that idle connections may share. The task that this gives closes those that are dead.
    fn suspect(&self, error: &DbErr) -> JoinHandle<()> {
        let noticed = Instant::now();
        self.suspicion.raise();
        let error = error.to_string();
        let (connection, tried) = (self.connection.clone(), self.tried.clone());
        tokio::spawn(async move {
            let mut tried = tried.lock().await;
            // Or somebody else has tried them since.
            if tried.is_none_or(|tried| tried < noticed) {
                tracing::warn!(
                    error,
                    "the database does not answer as it should; trying the idle connections"
                );
                *tried = Some(Instant::now());
                dialect::close_dead(&connection, PING).await;
            }
        })
    }

    /// Asks a question, which changes nothing. One that a lost connection swallowed is asked once more.
    pub(super) async fn read<T, F>(&self, ask: impl Fn(DatabaseConnection) -> F) -> Result<T, DbErr>
    where
        F: Future<Output = Result<T, DbErr>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut again = true;
        loop {
            let Ok(answer) = timeout_at(deadline, ask(self.connection.clone())).await else {
                let error = self.no_answer();
                self.suspect(&error);
                return Err(error);
            };
            match answer {
                Err(error) if failure(&error) == Failure::Away => {
                    let _ = self.suspect(&error).await;
                    if !std::mem::take(&mut again) {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Runs `work` in a transaction and returns when it is committed. It is run again when others got in the way, or the
    /// connection was lost before the end was asked for. After an error at the end nobody knows whether it was done.
    pub(super) async fn write<T, W>(&self, work: W) -> Result<T, DbErr>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<Verdict<T>, DbErr>> + Send + 'static,
    {
        let deadline = Instant::now() + self.timeout;
        let (mut again, mut conflicts) = (true, 0);
        loop {
            let Ok(outcome) = timeout_at(deadline, transact(&self.connection, &work)).await else {
                let error = self.no_answer();
                self.suspect(&error);
                return Err(error);
            };
            let error = match outcome {
                Ok(outcome) => return Ok(outcome),
                Err(Broken::AtCommit(error)) => {
                    self.suspect(&error);
                    return Err(error);
                }
                Err(Broken::Before(error)) => error,
            };
            match failure(&error) {
                Failure::Conflict if conflicts < CONFLICTS => {
                    conflicts += 1;
                    tokio::time::sleep(pause(conflicts)).await;
                }
                Failure::Away => {
                    let _ = self.suspect(&error).await;
                    if !std::mem::take(&mut again) {
                        return Err(error);
                    }
                }
                Failure::Conflict | Failure::Other => return Err(error),
            }
        }
    }

    fn no_answer(&self) -> DbErr {
        DbErr::Conn(RuntimeErr::Internal(format!("no answer within {} seconds", self.timeout.as_secs())))
    }
}

/// For a pool of one connection, whose locks are so those of whoever has the pool.
pub(super) fn single(mut options: ConnectOptions) -> ConnectOptions {
    options.max_connections(1).min_connections(0);
    options
}

async fn transact<T, W>(connection: &DatabaseConnection, work: &W) -> Result<T, Broken>
where
    W: for<'t> Fn(&'t DatabaseTransaction) -> BoxFuture<'t, Result<Verdict<T>, DbErr>>,
{
    let transaction = dialect::begin_write(connection).await.map_err(Broken::Before)?;
    match work(&transaction).await {
        Ok(Verdict::Commit(outcome)) => {
            transaction.commit().await.map_err(Broken::AtCommit)?;
            Ok(outcome)
        }
        Ok(Verdict::Rollback(outcome)) => {
            // Nothing stays either way; what is left of a transaction must not reach the next one.
            transaction.rollback().await.map_err(Broken::AtCommit)?;
            Ok(outcome)
        }
        Err(error) => match transaction.rollback().await {
            Ok(()) => Err(Broken::Before(error)),
            Err(_) if failure(&error) == Failure::Away => Err(Broken::Before(error)),
            Err(error) => Err(Broken::AtCommit(error)),
        },
    }
}

/// Longer every time, and somewhere between nothing and all of it, so that those who met do not meet again.
fn pause(conflicts: u32) -> Duration {
    let full = Duration::from_millis(1 << conflicts.min(7)).min(MAX_PAUSE);
    let mut random = [0; 2];
    let share = getrandom::fill(&mut random).map_or(u16::MAX, |()| u16::from_be_bytes(random));
    full * u32::from(share) / u32::from(u16::MAX)
}

/// What this node's questions go through.
pub(super) enum Reader {
    /// Connections that read a file.
    Embedded(DatabaseConnection),
    /// Those to a server.
    Server(Arc<Server>),
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
                let ask = |connection: DatabaseConnection| {
                    let statement = statement.clone();
                    async move { connection.execute_raw(statement).await }
                };
                server.read(ask).await
            }
        }
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        match self {
            Self::Embedded(connection) => connection.execute_unprepared(sql).await,
            Self::Server(server) => {
                let ask = |connection: DatabaseConnection| {
                    let sql = sql.to_owned();
                    async move { connection.execute_unprepared(&sql).await }
                };
                server.read(ask).await
            }
        }
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        match self {
            Self::Embedded(connection) => connection.query_one_raw(statement).await,
            Self::Server(server) => {
                let ask = |connection: DatabaseConnection| {
                    let statement = statement.clone();
                    async move { connection.query_one_raw(statement).await }
                };
                server.read(ask).await
            }
        }
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match self {
            Self::Embedded(connection) => connection.query_all_raw(statement).await,
            Self::Server(server) => {
                let ask = |connection: DatabaseConnection| {
                    let statement = statement.clone();
                    async move { connection.query_all_raw(statement).await }
                };
                server.read(ask).await
            }
        }
    }
}
