//! Challenges that prove possession of content.

use sea_orm::{DbErr, DeriveIden, sea_query::{ColumnDef, Index, Table}};

use super::steps::{Schema, create_index, create_table};

#[derive(DeriveIden)]
enum Challenges {
    Table,
    Uid,
    BlobId,
    Nonce,
    ExpiresAt,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let challenges = Table::create()
        .table(Challenges::Table)
        .col(ColumnDef::new(Challenges::Uid).big_integer().not_null().primary_key())
        .col(ColumnDef::new(Challenges::BlobId).big_integer().not_null())
        .col(ColumnDef::new(Challenges::Nonce).var_binary(32).not_null())
        .col(ColumnDef::new(Challenges::ExpiresAt).big_integer().not_null())
        .to_owned();
    create_table(schema, challenges).await?;
    let old = Index::create().col(Challenges::ExpiresAt).to_owned();
    create_index(schema, "challenges", "ix_challenges_expires", old).await
}
