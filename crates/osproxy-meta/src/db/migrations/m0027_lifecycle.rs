//! When and how far the lifecycle rules of buckets are applied.

use sea_orm::{
    DbErr, DeriveIden,
    sea_query::{ColumnDef, Index},
};

use super::{
    super::dialect,
    steps::{Schema, add_column, create_index},
};

#[derive(DeriveIden)]
enum Buckets {
    LifecycleDueAt,
    LifecyclePosition,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let due_at = &mut ColumnDef::new(Buckets::LifecycleDueAt);
    add_column(schema, "buckets", "lifecycle_due_at", due_at.big_integer()).await?;
    let position = &mut ColumnDef::new(Buckets::LifecyclePosition);
    let position = dialect::long_text(schema.backend(), position);
    add_column(schema, "buckets", "lifecycle_position", position).await?;
    let due = Index::create().col(Buckets::LifecycleDueAt).to_owned();
    create_index(schema, "buckets", "ix_buckets_lifecycle", due).await
}
