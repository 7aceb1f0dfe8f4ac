//! Schema migrations. A released migration is never changed.
//!
//! The table `seaql_migrations` records the applied migrations. Its name comes from the migrator of
//! `SeaORM`, which earlier versions of osproxy used.

mod steps;

use std::collections::HashSet;

use futures_util::future::BoxFuture;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbErr, DeriveIden,
    sea_query::{ColumnDef, Expr, Query, Table},
};

use crate::{db::dialect, now_ms};
use steps::Schema;

/// A change of the schema.
pub(crate) struct Migration {
    /// The name that is recorded once the migration is applied.
    pub(crate) name: &'static str,
    up: for<'s> fn(&'s Schema<'s>) -> BoxFuture<'s, Result<(), DbErr>>,
}

macro_rules! migrations {
    ($($name:ident,)*) => {
        $(mod $name;)*

        /// All migrations, oldest first.
        const MIGRATIONS: &[Migration] =
            &[$(Migration { name: stringify!($name), up: |schema| Box::pin($name::up(schema)) }),*];
    };
}

migrations! {
    m0001_files_and_blobs,
    m0002_parts_and_tasks,
    m0003_many_nodes,
    m0004_stores,
    m0005_pieces,
    m0006_listing,
    m0007_challenges,
    m0008_history,
    m0009_access,
    m0010_quotas,
    m0011_text_files,
    m0012_received,
    m0013_idempotency,
    m0014_packs,
    m0015_slot_size,
    m0016_upload_grants,
    m0017_concatenation,
    m0018_events,
    m0019_webhooks,
    m0020_processing,
    m0021_active_grants,
    m0024_objects,
    m0025_s3_keys,
    m0027_lifecycle,
    m0028_part_checksums,
}

#[derive(DeriveIden)]
enum SeaqlMigrations {
    Table,
    Version,
    AppliedAt,
}

/// Returns the names of the applied migrations. Creates their table if it is missing.
pub(crate) async fn applied(connection: &DatabaseConnection) -> Result<HashSet<String>, DbErr> {
    let table = Table::create()
        .table(SeaqlMigrations::Table)
        .if_not_exists()
        .col(ColumnDef::new(SeaqlMigrations::Version).string().not_null().primary_key())
        .col(ColumnDef::new(SeaqlMigrations::AppliedAt).big_integer().not_null())
        .to_owned();
    connection.execute(&table).await?;
    let names = Query::select().column(SeaqlMigrations::Version).from(SeaqlMigrations::Table).to_owned();
    let rows = connection.query_all(&names).await?;
    rows.into_iter().map(|row| row.try_get_by_index(0)).collect()
}

/// The migrations that are not in `applied`, oldest first.
pub(crate) fn pending(applied: &HashSet<String>) -> impl Iterator<Item = &'static Migration> {
    MIGRATIONS.iter().filter(|migration| !applied.contains(migration.name))
}

/// Whether this version of osproxy has a migration of this name.
pub(crate) fn is_known(name: &str) -> bool {
    MIGRATIONS.iter().any(|migration| migration.name == name)
}

impl Migration {
    /// Applies the migration and records it. Atomic on databases with transactional DDL.
    pub(crate) async fn apply(&self, connection: &DatabaseConnection) -> Result<(), DbErr> {
        tracing::info!(migration = self.name, "changing the schema of the database");
        let transaction = dialect::begin_write(connection).await?;
        (self.up)(&Schema::new(&transaction)).await?;
        let record = Query::insert()
            .into_table(SeaqlMigrations::Table)
            .columns([SeaqlMigrations::Version, SeaqlMigrations::AppliedAt])
            .values_panic([Expr::value(self.name), Expr::value(now_ms() / 1000)])
            .to_owned();
        transaction.execute(&record).await?;
        transaction.commit().await
    }
}
