//! API keys, use counts of links, and revocation of links.

use sea_orm::{DbErr, DeriveIden, sea_query::{ColumnDef, Index, Table}};

use super::steps::{Schema, add_column, create_index, create_table};

#[derive(DeriveIden)]
enum ApiKeys {
    Table,
    Id,
    Hash,
    Label,
    Tenant,
    Scopes,
    MaxRate,
    MaxSize,
    MaxTransfers,
    CreatedAt,
    ExpiresAt,
    RevokedAt,
}

#[derive(DeriveIden)]
enum Files {
    LinksFrom,
}

#[derive(DeriveIden)]
enum LinkUses {
    Table,
    Id,
    Uses,
    ExpiresAt,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let keys = Table::create()
        .table(ApiKeys::Table)
        .col(ColumnDef::new(ApiKeys::Id).string_len(16).not_null().primary_key())
        .col(ColumnDef::new(ApiKeys::Hash).var_binary(32).not_null())
        .col(ColumnDef::new(ApiKeys::Label).string_len(255).not_null())
        .col(ColumnDef::new(ApiKeys::Tenant).string_len(64).not_null())
        .col(ColumnDef::new(ApiKeys::Scopes).string_len(64).not_null())
        .col(ColumnDef::new(ApiKeys::MaxRate).integer())
        .col(ColumnDef::new(ApiKeys::MaxSize).big_integer())
        .col(ColumnDef::new(ApiKeys::MaxTransfers).integer())
        .col(ColumnDef::new(ApiKeys::CreatedAt).big_integer().not_null())
        .col(ColumnDef::new(ApiKeys::ExpiresAt).big_integer())
        .col(ColumnDef::new(ApiKeys::RevokedAt).big_integer())
        .to_owned();
    create_table(schema, keys).await?;
    let uses = Table::create()
        .table(LinkUses::Table)
        .col(ColumnDef::new(LinkUses::Id).string_len(32).not_null().primary_key())
        .col(ColumnDef::new(LinkUses::Uses).integer().not_null())
        .col(ColumnDef::new(LinkUses::ExpiresAt).big_integer().not_null())
        .to_owned();
    create_table(schema, uses).await?;
    let old = Index::create().col(LinkUses::ExpiresAt).to_owned();
    create_index(schema, "link_uses", "ix_link_uses_expires", old).await?;
    let mut links_from = ColumnDef::new(Files::LinksFrom);
    add_column(schema, "files", "links_from", links_from.big_integer().null()).await
}
