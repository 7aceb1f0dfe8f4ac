//! Schema migrations. A released migration is never changed.

mod m0001_files_and_blobs;
mod m0002_parts_and_tasks;
mod m0003_many_nodes;
mod m0004_stores;
mod m0005_pieces;
mod m0006_listing;
mod m0007_challenges;
mod m0008_history;
mod m0009_access;
mod m0010_quotas;
mod m0011_text_files;
mod m0012_received;
mod m0013_idempotency;
mod steps;

use sea_orm_migration::{MigrationTrait, MigratorTrait};

pub(crate) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_files_and_blobs::Migration),
            Box::new(m0002_parts_and_tasks::Migration),
            Box::new(m0003_many_nodes::Migration),
            Box::new(m0004_stores::Migration),
            Box::new(m0005_pieces::Migration),
            Box::new(m0006_listing::Migration),
            Box::new(m0007_challenges::Migration),
            Box::new(m0008_history::Migration),
            Box::new(m0009_access::Migration),
            Box::new(m0010_quotas::Migration),
            Box::new(m0011_text_files::Migration),
            Box::new(m0012_received::Migration),
            Box::new(m0013_idempotency::Migration),
        ]
    }
}
