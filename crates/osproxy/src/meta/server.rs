//! Connections to a database server: bounded in number and in time, made anew when the server went and came back.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    ExecResult, QueryResult, RuntimeErr, Statement,
};
use tokio::time::{Instant, timeout_at};

use super::{
    dialect::{self, Failure, Lock, PoolUse},
    write_queue::Verdict,
};

/// How often work that others got in the way of is begun again.
const CONFLICTS: u32 = 30;
/// How often connections are closed that nobody needs any more.
const IDLE: Duration = Duration::from_mins(1);
/// Longest pause before it is.
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// A pool of connections, and which one it is.
#[derive(Clone)]
struct Pool {
    connection: DatabaseConnection,
    generation: u64,
}

/// A database server, as this node uses it.
///
/// A connection that broke, or whose transaction did not end as it should, is never trusted again, nor are those beside
/// it, which came from the same server: all are let go at once, and new ones are made when they are needed. So the first
/// request after an outage finds no dead connection.
pub(super) struct Server {
    options: ConnectOptions,
    /// How long an answer is waited for.
    timeout: Duration,
    pool: Mutex<Pool>,
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
        options: ConnectOptions,
        timeout: Duration,
        max_idle: u32,
    ) -> Result<Arc<Self>, DbErr> {
        let connection = Database::connect(options.clone()).await?;
        let server =
            Arc::new(Self { options, timeout, pool: Mutex::new(Pool { connection, generation: 0 }) });
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
        dialect::close_idle(&self.pool().connection, max_idle).await;
    }

    /// How its connections are used.
    pub(super) fn pool_use(&self) -> PoolUse {
        dialect::pool(&self.pool().connection)
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
        self.pool().connection.get_database_backend()
    }

    fn pool(&self) -> Pool {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets a pool go, unless another did so before.
    async fn replace(&self, broken: Pool, error: &DbErr) {
        // Nothing is connected yet, so nothing is waited for.
        let Ok(connection) = Database::connect(self.options.clone()).await else {
            return;
        };
        {
            let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            if pool.generation != broken.generation {
                return;
            }
            *pool = Pool { connection, generation: broken.generation + 1 };
        }
        tracing::warn!(%error, "lost the database; connecting anew");
        // Closing waits for those who still use a connection of it.
        tokio::spawn(async move { broken.connection.close().await });
    }

    /// Asks a question, which changes nothing. One that a lost connection swallowed is asked once more.
    pub(super) async fn read<T, F>(&self, ask: impl Fn(DatabaseConnection) -> F) -> Result<T, DbErr>
    where
        F: Future<Output = Result<T, DbErr>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut again = true;
        loop {
            let pool = self.pool();
            let Ok(answer) = timeout_at(deadline, ask(pool.connection.clone())).await else {
                let error = self.no_answer();
                self.replace(pool, &error).await;
                return Err(error);
            };
            match answer {
                Err(error) if dialect::failure(&error) == Failure::Away => {
                    self.replace(pool, &error).await;
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
            let pool = self.pool();
            let Ok(outcome) = timeout_at(deadline, transact(&pool.connection, &work)).await else {
                let error = self.no_answer();
                self.replace(pool, &error).await;
                return Err(error);
            };
            let error = match outcome {
                Ok(outcome) => return Ok(outcome),
                Err(Broken::AtCommit(error)) => {
                    self.replace(pool, &error).await;
                    return Err(error);
                }
                Err(Broken::Before(error)) => error,
            };
            match dialect::failure(&error) {
                Failure::Conflict if conflicts < CONFLICTS => {
                    conflicts += 1;
                    tokio::time::sleep(pause(conflicts)).await;
                }
                Failure::Away => {
                    self.replace(pool, &error).await;
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
            Err(_) if dialect::failure(&error) == Failure::Away => Err(Broken::Before(error)),
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
