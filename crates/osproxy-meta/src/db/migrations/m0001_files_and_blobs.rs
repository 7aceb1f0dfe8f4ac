//! Files, blobs and link keys.

use sea_orm::{DbErr, DeriveIden, sea_query::{ColumnDef, ForeignKey, ForeignKeyAction, Index, Table}};

use super::steps::{Schema, create_index, create_table};

#[derive(DeriveIden)]
enum Blobs {
    Table,
    Id,
    Tenant,
    State,
    Backend,
    ObjectKey,
    Refs,
    Size,
    Md5,
    Blake3,
    Sniffed,
    CreatedAt,
}

#[derive(DeriveIden)]
enum Files {
    Table,
    Uid,
    Tenant,
    Name,
    State,
    BlobId,
    ContentType,
    ExpiresAt,
    CreatedAt,
    StoredAt,
}

#[derive(DeriveIden)]
enum LinkKeys {
    Table,
    Id,
    Secret,
    CreatedAt,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let blobs = Table::create()
        .table(Blobs::Table)
        .col(ColumnDef::new(Blobs::Id).big_integer().not_null().primary_key())
        .col(ColumnDef::new(Blobs::Tenant).string_len(64).not_null())
        .col(ColumnDef::new(Blobs::State).string_len(16).not_null())
        .col(ColumnDef::new(Blobs::Backend).string_len(16).not_null())
        .col(ColumnDef::new(Blobs::ObjectKey).string_len(255).not_null())
        .col(ColumnDef::new(Blobs::Refs).integer().not_null())
        .col(ColumnDef::new(Blobs::Size).big_integer().not_null())
        .col(ColumnDef::new(Blobs::Md5).var_binary(16))
        .col(ColumnDef::new(Blobs::Blake3).var_binary(32))
        .col(ColumnDef::new(Blobs::Sniffed).string_len(255))
        .col(ColumnDef::new(Blobs::CreatedAt).big_integer().not_null())
        .to_owned();
    create_table(schema, blobs).await?;
    let files = Table::create()
        .table(Files::Table)
        .col(ColumnDef::new(Files::Uid).big_integer().not_null().primary_key())
        .col(ColumnDef::new(Files::Tenant).string_len(64).not_null())
        .col(ColumnDef::new(Files::Name).string_len(1024).not_null())
        .col(ColumnDef::new(Files::State).string_len(16).not_null())
        .col(ColumnDef::new(Files::BlobId).big_integer())
        .col(ColumnDef::new(Files::ContentType).string_len(255).not_null())
        .col(ColumnDef::new(Files::ExpiresAt).big_integer().not_null())
        .col(ColumnDef::new(Files::CreatedAt).big_integer().not_null())
        .col(ColumnDef::new(Files::StoredAt).big_integer())
        .foreign_key(
            ForeignKey::create()
                .name("fk_files_blob")
                .from(Files::Table, Files::BlobId)
                .to(Blobs::Table, Blobs::Id)
                .on_delete(ForeignKeyAction::Restrict),
        )
        .to_owned();
    create_table(schema, files).await?;
    let link_keys = Table::create()
        .table(LinkKeys::Table)
        .col(ColumnDef::new(LinkKeys::Id).string_len(32).not_null().primary_key())
        .col(ColumnDef::new(LinkKeys::Secret).var_binary(64).not_null())
        .col(ColumnDef::new(LinkKeys::CreatedAt).big_integer().not_null())
        .to_owned();
    create_table(schema, link_keys).await?;
    create_indices(schema).await
}

async fn create_indices(schema: &Schema<'_>) -> Result<(), DbErr> {
    // Content is deduplicated by tenant and BLAKE3. Rows that are not verified yet have no digest;
    // NULLs do not conflict in a unique index.
    let unique = Index::create().col(Blobs::Tenant).col(Blobs::Blake3).unique().to_owned();
    create_index(schema, "blobs", "uq_blobs_tenant_blake3", unique).await?;
    // For instant uploads by MD5 (API v0).
    let by_md5 = Index::create().col(Blobs::Tenant).col(Blobs::Md5).to_owned();
    create_index(schema, "blobs", "ix_blobs_tenant_md5", by_md5).await?;
    // For the sweep, which looks for rows that are not in state `stored`.
    let by_state = Index::create().col(Blobs::State).to_owned();
    create_index(schema, "blobs", "ix_blobs_state", by_state).await?;
    // For the foreign key check when a blob is deleted.
    let by_blob = Index::create().col(Files::BlobId).to_owned();
    create_index(schema, "files", "ix_files_blob", by_blob).await
}
