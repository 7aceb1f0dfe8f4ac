//! Brings the tables up to date, by one node at a time.

use std::{collections::HashSet, time::Duration};

use sea_orm::{Database, DatabaseConnection, DbErr};
use sea_orm_migration::MigratorTrait;

use super::{
    dialect::{self, Lock},
    migrations::Migrator,
    server::single,
};
use crate::config::DatabaseServer;

/// How long another node's migration is waited for.
const WAIT: Duration = Duration::from_mins(10);

/// Brings the tables on a server up to date, alone: nodes that start at the same time wait for each other.
pub(super) async fn server(server: &DatabaseServer) -> Result<(), DbErr> {
    let connection = single_connection(server).await?;
    let migrated = async {
        if !dialect::lock(&connection, Lock::Migrate, Duration::ZERO).await? {
            tracing::info!("another node brings the tables of the database up to date; waiting for it");
            if !dialect::lock(&connection, Lock::Migrate, WAIT).await? {
                return Err(DbErr::Custom(
                    "another node has been migrating the database for too long".into(),
                ));
            }
        }
        tables(&connection).await
    };
    let migrated = migrated.await;
    // The lock ends with the connection.
    let closed = connection.close().await;
    migrated.and(closed)
}

/// A pool of one connection, whose locks are so those of whoever has the pool.
pub(super) async fn single_connection(server: &DatabaseServer) -> Result<DatabaseConnection, DbErr> {
    Database::connect(single(dialect::server_options(server)?.options)).await
}

/// Brings the tables up to date. Whoever calls this sees to it that nobody else does.
pub(super) async fn tables(connection: &DatabaseConnection) -> Result<(), DbErr> {
    must_not_be_newer(connection).await?;
    Migrator::up(connection, None).await
}

/// Fails when the tables are not those of this version. Changes nothing about them.
pub(super) async fn must_be_current(connection: &DatabaseConnection) -> Result<(), DbErr> {
    must_not_be_newer(connection).await?;
    if Migrator::get_pending_migrations(connection).await?.is_empty() {
        return Ok(());
    }
    let message = "its tables are of an older version; `osproxy migrate` brings them up to date, and so does the \
                   service when it starts";
    Err(DbErr::Custom(message.to_owned()))
}

async fn must_not_be_newer(connection: &DatabaseConnection) -> Result<(), DbErr> {
    Migrator::install(connection).await?;
    let migrations = Migrator::migrations();
    let known: HashSet<_> = migrations.iter().map(|migration| migration.name()).collect();
    let applied = Migrator::get_migration_models(connection).await?;
    match applied.into_iter().find(|applied| !known.contains(applied.version.as_str())) {
        None => Ok(()),
        Some(newer) => Err(DbErr::Custom(format!(
            "its tables were made by a newer version of osproxy ({} is not known here); use that version or a later one",
            newer.version
        ))),
    }
}
