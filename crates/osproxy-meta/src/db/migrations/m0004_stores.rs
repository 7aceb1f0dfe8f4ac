//! Support for several stores: the process that writes an object, and the store's multipart
//! uploads.

use sea_orm::{DbErr, DeriveIden, sea_query::{ColumnDef}};

use super::steps::{Schema, add_column};

#[derive(DeriveIden)]
enum Columns {
    WrittenBy,
    UploadId,
    NativeHighest,
    NativeSmall,
    Tag,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    // Nodes that share a store must know which process writes each object.
    let column = &mut ColumnDef::new(Columns::WrittenBy);
    column.string_len(64);
    add_column(schema, "blobs", "written_by", column).await?;
    add_column(schema, "parts", "written_by", column).await?;
    // The store's multipart uploads.
    let column = &mut ColumnDef::new(Columns::UploadId);
    add_column(schema, "blobs", "upload_id", column.string_len(1024)).await?;
    for (name, number) in [
        ("native_highest", ColumnDef::new(Columns::NativeHighest)),
        ("native_small", ColumnDef::new(Columns::NativeSmall)),
    ] {
        add_column(schema, "blobs", name, number.clone().integer()).await?;
    }
    add_column(schema, "parts", "tag", ColumnDef::new(Columns::Tag).string_len(255)).await
}
