//! Support for several nodes: unique keys of parts, and the store that a task needs.

use sea_orm::{DbErr, DeriveIden, sea_query::{ColumnDef, Index}};

use super::steps::{Schema, add_column, create_index, drop_index};

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

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    // Two nodes can start to write the same part concurrently. Only one of them is allowed to use
    // the object key without a write id.
    let attempt =
        Index::create().col(Parts::BlobId).col(Parts::Number).col(Parts::ObjectKey).unique().to_owned();
    create_index(schema, "parts", "uq_parts_blob_number_key", attempt).await?;
    drop_index(schema, "parts", "ix_parts_blob_number").await?;
    // If only one node can access a store, tasks that need this store must run on that node.
    add_column(schema, "tasks", "store", ColumnDef::new(Tasks::Store).string_len(16)).await
}
