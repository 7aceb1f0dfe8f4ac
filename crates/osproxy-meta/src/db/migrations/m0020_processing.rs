//! What the processing pipeline has found out about files.

use sea_orm::{DbErr, DeriveIden, sea_query::ColumnDef};

use super::steps::{Schema, add_column};

#[derive(DeriveIden)]
enum Files {
    Media,
    Verdict,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    add_column(schema, "files", "media", ColumnDef::new(Files::Media).text()).await?;
    add_column(schema, "files", "verdict", ColumnDef::new(Files::Verdict).text()).await
}
