//! Idle connections and usage of a driver's connection pool.

use std::time::Duration;

use sea_orm::{
    DatabaseConnection, DbBackend,
    sqlx::{self, Connection},
};

/// Closes idle connections while more than `keep` connections are open. Does nothing for SQLite.
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
/// `ping_timeout`. A connection counts towards the pool's limit while it is pinged. Does nothing
/// for SQLite.
pub(crate) async fn close_dead(connection: &DatabaseConnection, ping_timeout: Duration) {
    match connection.get_database_backend() {
        DbBackend::Postgres => close_dead_of(connection.get_postgres_connection_pool(), ping_timeout).await,
        DbBackend::MySql => close_dead_of(connection.get_mysql_connection_pool(), ping_timeout).await,
        _ => {}
    }
}

async fn close_dead_of<D: sqlx::Database>(pool: &sqlx::Pool<D>, ping_timeout: Duration) {
    let idle = std::iter::from_fn(|| pool.try_acquire()).take(pool.num_idle());
    let pings = idle.map(|mut connection| async move {
        if !matches!(tokio::time::timeout(ping_timeout, connection.ping()).await, Ok(Ok(()))) {
            // Close without the protocol's termination message: sending it could block.
            drop(connection.detach());
        }
    });
    futures_util::future::join_all(pings.collect::<Vec<_>>()).await;
}
