//! The history of uploads: when files and parts were stored, and by which node.

use sea_orm::{DbErr, DeriveIden, sea_query::{ColumnDef}};

use super::steps::{Schema, add_column};

#[derive(DeriveIden)]
enum Columns {
    StoredAt,
    StoredBy,
    ReceivedAs,
    ReceivedFrom,
    ReceivedUntil,
    ReceivedNodes,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    add_column(schema, "parts", "stored_at", ColumnDef::new(Columns::StoredAt).big_integer()).await?;
    // These columns keep the history of an upload after its part rows are deleted or its blob
    // is replaced by a duplicate.
    add_column(schema, "files", "stored_by", ColumnDef::new(Columns::StoredBy).string_len(64)).await?;
    for (name, column) in [
        ("received_as", Columns::ReceivedAs),
        ("received_from", Columns::ReceivedFrom),
        ("received_until", Columns::ReceivedUntil),
    ] {
        add_column(schema, "files", name, ColumnDef::new(column).big_integer()).await?;
    }
    add_column(schema, "files", "received_nodes", ColumnDef::new(Columns::ReceivedNodes).integer()).await
}
