//! The checksums that clients of the S3 API send with parts.

use sea_orm::{DbErr, DeriveIden, sea_query::ColumnDef};

use super::{
    super::dialect,
    steps::{Schema, add_column},
};

#[derive(DeriveIden)]
enum Parts {
    Checksums,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let mut checksums = ColumnDef::new(Parts::Checksums);
    let checksums = dialect::long_text(schema.backend(), &mut checksums);
    add_column(schema, "parts", "checksums", checksums).await
}
