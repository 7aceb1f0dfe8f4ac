//! The uid that is assigned to a request with an idempotency key.

use sea_orm::{DbErr, DeriveIden, sea_query::{ColumnDef, Index}};

use super::steps::{Schema, add_column, create_index};

#[derive(DeriveIden)]
enum IdempotencyKeys {
    Uid,
}

/// Adds the column for the uid that is assigned to a request before the request takes effect, and
/// an index for finding the highest uid at startup.
pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let mut uid = ColumnDef::new(IdempotencyKeys::Uid);
    add_column(schema, "idempotency_keys", "uid", uid.big_integer()).await?;
    let index = Index::create().col(IdempotencyKeys::Uid).to_owned();
    create_index(schema, "idempotency_keys", "ix_idempotency_keys_uid", index).await
}
