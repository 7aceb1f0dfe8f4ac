//! Keys of the S3 API.

use sea_orm::{
    DbErr, DeriveIden,
    sea_query::{ColumnDef, Table},
};

use super::{
    super::dialect,
    steps::{Schema, create_table},
};

#[derive(DeriveIden)]
enum S3Keys {
    Table,
    Id,
    Label,
    Tenant,
    Buckets,
    ReadOnly,
    MasterKey,
    CreatedAt,
    RevokedAt,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let keys = Table::create()
        .table(S3Keys::Table)
        .col(ColumnDef::new(S3Keys::Id).string_len(20).not_null().primary_key())
        .col(ColumnDef::new(S3Keys::Label).string_len(255).not_null())
        .col(ColumnDef::new(S3Keys::Tenant).string_len(64).not_null())
        .col(dialect::long_text(schema.backend(), &mut ColumnDef::new(S3Keys::Buckets)))
        .col(ColumnDef::new(S3Keys::ReadOnly).boolean().not_null())
        .col(ColumnDef::new(S3Keys::MasterKey).string_len(16).not_null())
        .col(ColumnDef::new(S3Keys::CreatedAt).big_integer().not_null())
        .col(ColumnDef::new(S3Keys::RevokedAt).big_integer())
        .to_owned();
    create_table(schema, keys).await
}
