//! The uid that is assigned to a request with an idempotency key.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{DbErr, DeriveIden},
    sea_query::{ColumnDef, Index},
};

use super::steps::{add_column, create_index};

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0013_idempotency"
    }
}

#[derive(DeriveIden)]
enum IdempotencyKeys {
    Uid,
}

#[async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    /// Adds the uid that a request is assigned before it takes effect. The index is for finding the
    /// newest uid at startup.
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut uid = ColumnDef::new(IdempotencyKeys::Uid);
        add_column(manager, "idempotency_keys", "uid", uid.big_integer()).await?;
        let index = Index::create().col(IdempotencyKeys::Uid).to_owned();
        create_index(manager, "idempotency_keys", "ix_idempotency_keys_uid", index).await
    }
}
