//! Partial uploads of tus, and the uploads that are made of them.

use sea_orm::{DbErr, DeriveIden, sea_query::ColumnDef};

use super::steps::{Schema, add_column};

#[derive(DeriveIden)]
enum Files {
    FinalUid,
    PartialUids,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    add_column(schema, "files", "final_uid", ColumnDef::new(Files::FinalUid).big_integer()).await?;
    add_column(schema, "files", "partial_uids", ColumnDef::new(Files::PartialUids).text()).await
}
