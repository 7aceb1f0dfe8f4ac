//! Received bytes and required MIME type of open uploads, and the charge for a file's row.

use sea_orm::{ConnectionTrait, DbErr, DeriveIden, sea_query::{ColumnDef, Index}};

use super::steps::{Schema, add_column, create_index};

#[derive(DeriveIden)]
enum Files {
    Tenant,
    State,
    Received,
    RequiredType,
    RecordBytes,
}

/// Sets the received bytes of open uploads to the total size of their stored parts.
const COUNT: &str = "UPDATE files SET received = COALESCE((SELECT SUM(parts.size) FROM parts \
    WHERE parts.blob_id = files.blob_id AND parts.state = 'stored'), 0) \
    WHERE files.state IN ('receiving', 'completing')";

/// Existing files are charged 0 bytes for their rows.
pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let mut received = ColumnDef::new(Files::Received);
    add_column(schema, "files", "received", received.big_integer().not_null().default(0)).await?;
    let mut required = ColumnDef::new(Files::RequiredType);
    add_column(schema, "files", "required_type", required.string_len(127)).await?;
    let mut record = ColumnDef::new(Files::RecordBytes);
    add_column(schema, "files", "record_bytes", record.big_integer().not_null().default(0)).await?;
    let open = Index::create().col(Files::Tenant).col(Files::State).to_owned();
    create_index(schema, "files", "ix_files_tenant_state", open).await?;
    schema.connection().execute_unprepared(COUNT).await?;
    Ok(())
}
