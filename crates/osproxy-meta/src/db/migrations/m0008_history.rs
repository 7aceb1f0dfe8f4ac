//! The history of uploads: when files and parts were stored, and by which node.

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
        "m0008_history"
    }
}

#[derive(DeriveIden)]
enum Columns {
    StoredAt,
    StoredBy,
    ReceivedAs,
    ReceivedFrom,
    ReceivedUntil,
    ReceivedNodes,
}

#[async_trait]
impl MigrationTrait for Migration {
    /// Atomic on databases with transactional DDL.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        add_column(manager, "parts", "stored_at", ColumnDef::new(Columns::StoredAt).big_integer()).await?;
        // These columns keep the history of an upload after its part rows are deleted or its blob
        // is replaced by a duplicate.
        add_column(manager, "files", "stored_by", ColumnDef::new(Columns::StoredBy).string_len(64)).await?;
        for (name, column) in [
            ("received_as", Columns::ReceivedAs),
            ("received_from", Columns::ReceivedFrom),
            ("received_until", Columns::ReceivedUntil),
        ] {
            add_column(manager, "files", name, ColumnDef::new(column).big_integer()).await?;
        }
        add_column(manager, "files", "received_nodes", ColumnDef::new(Columns::ReceivedNodes).integer()).await
    }
}
