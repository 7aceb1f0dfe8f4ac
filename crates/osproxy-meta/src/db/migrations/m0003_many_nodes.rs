//! Support for several nodes: unique keys of parts, and the store that a task needs.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{DbErr, DeriveIden},
    sea_query::{ColumnDef, Index},
};

use super::steps::{add_column, create_index, drop_index};

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0003_many_nodes"
    }
}

#[derive(DeriveIden)]
enum Parts {
    BlobId,
    Number,
    ObjectKey,
}

#[derive(DeriveIden)]
enum Tasks {
    Store,
}

#[async_trait]
impl MigrationTrait for Migration {
    /// Atomic on databases with transactional DDL.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Two nodes may start to write the same part concurrently. Only one of them may use the
        // object key without a write id.
        let attempt =
            Index::create().col(Parts::BlobId).col(Parts::Number).col(Parts::ObjectKey).unique().to_owned();
        create_index(manager, "parts", "uq_parts_blob_number_key", attempt).await?;
        drop_index(manager, "parts", "ix_parts_blob_number").await?;
        // If only one node can access a store, tasks that need this store must run on that node.
        add_column(manager, "tasks", "store", ColumnDef::new(Tasks::Store).string_len(16)).await
    }
}
