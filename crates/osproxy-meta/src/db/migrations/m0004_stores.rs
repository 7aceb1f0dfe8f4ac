//! Support for several stores: the process that writes an object, and the store's multipart
//! uploads.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{DbErr, DeriveIden},
    sea_query::ColumnDef,
};

use super::steps::add_column;

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0004_stores"
    }
}

#[derive(DeriveIden)]
enum Columns {
    WrittenBy,
    UploadId,
    NativeHighest,
    NativeSmall,
    Tag,
}

#[async_trait]
impl MigrationTrait for Migration {
    /// Atomic on databases with transactional DDL.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Nodes that share a store must know which process writes each object.
        let column = &mut ColumnDef::new(Columns::WrittenBy);
        column.string_len(64);
        add_column(manager, "blobs", "written_by", column).await?;
        add_column(manager, "parts", "written_by", column).await?;
        // The store's multipart uploads.
        let column = &mut ColumnDef::new(Columns::UploadId);
        add_column(manager, "blobs", "upload_id", column.string_len(1024)).await?;
        for (name, number) in [
            ("native_highest", ColumnDef::new(Columns::NativeHighest)),
            ("native_small", ColumnDef::new(Columns::NativeSmall)),
        ] {
            add_column(manager, "blobs", name, number.clone().integer()).await?;
        }
        add_column(manager, "parts", "tag", ColumnDef::new(Columns::Tag).string_len(255)).await
    }
}
