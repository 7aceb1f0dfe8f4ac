//! The uid that is assigned to a request with an idempotency key.

use sea_orm::{DbErr, DeriveIden, sea_query::{ColumnDef, Index}};

use super::steps::{Schema, add_column, create_index};

#[derive(DeriveIden)]
enum IdempotencyKeys {
    Uid,
}

/// Adds the uid that a request is assigned before it takes effect. The index is for finding the
/// newest uid at startup.
pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let mut uid = ColumnDef::new(IdempotencyKeys::Uid);
    add_column(schema, "idempotency_keys", "uid", uid.big_integer()).await?;
    let index = Index::create().col(IdempotencyKeys::Uid).to_owned();
    create_index(schema, "idempotency_keys", "ix_idempotency_keys_uid", index).await
}
