//! Announced sizes and digests of uploads, and BLAKE3 subtree hashes of parts.

use sea_orm::{DbErr, DeriveIden, sea_query::{ColumnDef, Index}};

use super::steps::{Schema, add_column, create_index};

#[derive(DeriveIden)]
enum Columns {
    Tenant,
    AnnouncedSize,
    PartSize,
    ClaimedMd5,
    ClaimedSha256,
    ClaimedBlake3,
    Sha256,
    Piece,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    // What a client announces before it sends the content.
    for (name, column) in [("announced_size", Columns::AnnouncedSize), ("part_size", Columns::PartSize)] {
        add_column(schema, "files", name, ColumnDef::new(column).big_integer()).await?;
    }
    for (name, column, length) in [
        ("claimed_md5", Columns::ClaimedMd5, 16),
        ("claimed_sha256", Columns::ClaimedSha256, 32),
        ("claimed_blake3", Columns::ClaimedBlake3, 32),
    ] {
        add_column(schema, "files", name, ColumnDef::new(column).var_binary(length)).await?;
    }
    let column = &mut ColumnDef::new(Columns::PartSize);
    add_column(schema, "blobs", "part_size", column.big_integer()).await?;
    for (name, column) in [
        ("sha256", Columns::Sha256),
        ("claimed_sha256", Columns::ClaimedSha256),
        ("claimed_blake3", Columns::ClaimedBlake3),
    ] {
        add_column(schema, "blobs", name, ColumnDef::new(column).var_binary(32)).await?;
    }
    let index = Index::create().col(Columns::Tenant).col(Columns::Sha256).to_owned();
    create_index(schema, "blobs", "ix_blobs_tenant_sha256", index).await?;
    // Subtree hashes, which combine to the BLAKE3 of the blob.
    add_column(schema, "parts", "piece", ColumnDef::new(Columns::Piece).var_binary(32)).await
}
