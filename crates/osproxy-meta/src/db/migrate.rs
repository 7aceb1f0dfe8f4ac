//! Runs pending migrations, on one node at a time.

use std::{collections::HashSet, time::Duration};

use sea_orm::{DatabaseConnection, DbErr};

use crate::DatabaseServer;
use crate::db::{
    connect,
    database_lock::{self, DatabaseLock},
    migrations,
    server_pool::with_single_connection,
};

/// How long to wait for another node's migration.
const LOCK_TIMEOUT: Duration = Duration::from_mins(10);

/// Migrates a server's database under a lock, so that nodes that start at the same time migrate one
/// after another.
pub(crate) async fn migrate_server(server: &DatabaseServer) -> Result<(), DbErr> {
    let connection = single_connection(server).await?;
    let migration = async {
        if !database_lock::acquire(&connection, DatabaseLock::Migrate, Duration::ZERO).await? {
            tracing::info!("another node is migrating the database; waiting for it");
            if !database_lock::acquire(&connection, DatabaseLock::Migrate, LOCK_TIMEOUT).await? {
                return Err(DbErr::Custom(
                    "timed out waiting for another node to migrate the database; retry after that migration has finished".into(),
                ));
            }
        }
        migrate_schema(&connection).await
    };
    let migration = migration.await;
    // Closing the connection releases the lock.
    let closed = connection.close().await;
    migration.and(closed)
}

/// Opens a pool of one connection, so that all statements run on the connection that holds a lock.
pub(crate) async fn single_connection(server: &DatabaseServer) -> Result<DatabaseConnection, DbErr> {
    connect::open(with_single_connection(connect::server_options(server)?.options)).await
}

/// Migrates the tables. The caller must exclude concurrent migrations.
pub(crate) async fn migrate_schema(connection: &DatabaseConnection) -> Result<(), DbErr> {
    let applied = applied(connection).await?;
    for migration in migrations::pending(&applied) {
        migration.apply(connection).await?;
    }
    Ok(())
}

/// Fails unless the schema matches this version of osproxy. Does not migrate.
pub(crate) async fn ensure_current(connection: &DatabaseConnection) -> Result<(), DbErr> {
    let applied = applied(connection).await?;
    if migrations::pending(&applied).next().is_none() {
        return Ok(());
    }
    let message = "the schema is older than this version of osproxy; run `osproxy migrate` or start the \
                   service to upgrade it";
    Err(DbErr::Custom(message.to_owned()))
}

/// Returns the names of the applied migrations. Fails if this version of osproxy does not know one
/// of them.
async fn applied(connection: &DatabaseConnection) -> Result<HashSet<String>, DbErr> {
    let applied = migrations::applied(connection).await?;
    match applied.iter().find(|name| !migrations::is_known(name)) {
        None => Ok(applied),
        Some(newer) => Err(DbErr::Custom(format!(
            "the schema was created by a newer version of osproxy (unknown migration {newer}); use that version or a later one"
        ))),
    }
}
