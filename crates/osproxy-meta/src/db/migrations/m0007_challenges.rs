//! Challenges that prove possession of content.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{DbErr, DeriveIden},
    sea_query::{ColumnDef, Index, Table},
};

use super::steps::{create_index, create_table};

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0007_challenges"
    }
}

#[derive(DeriveIden)]
enum Challenges {
    Table,
    Uid,
    BlobId,
    Nonce,
    ExpiresAt,
}

#[async_trait]
impl MigrationTrait for Migration {
    /// Atomic on databases with transactional DDL.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let challenges = Table::create()
            .table(Challenges::Table)
            .col(ColumnDef::new(Challenges::Uid).big_integer().not_null().primary_key())
            .col(ColumnDef::new(Challenges::BlobId).big_integer().not_null())
            .col(ColumnDef::new(Challenges::Nonce).var_binary(32).not_null())
            .col(ColumnDef::new(Challenges::ExpiresAt).big_integer().not_null())
            .to_owned();
        create_table(manager, challenges).await?;
        let old = Index::create().col(Challenges::ExpiresAt).to_owned();
        create_index(manager, "challenges", "ix_challenges_expires", old).await
    }
}
