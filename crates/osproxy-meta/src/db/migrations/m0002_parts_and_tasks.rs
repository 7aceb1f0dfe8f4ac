//! Parts, tasks and their attempts.

use sea_orm::{DbErr, DeriveIden, sea_query::{ColumnDef, ForeignKey, ForeignKeyAction, Index, Table}};

use super::steps::{Schema, add_column, create_index, create_table};

#[derive(DeriveIden)]
enum Blobs {
    Table,
    Id,
    Layout,
    ClaimedMd5,
}

#[derive(DeriveIden)]
enum Files {
    State,
    PartCount,
    ExpiresAt,
}

#[derive(DeriveIden)]
enum Parts {
    Table,
    Id,
    BlobId,
    Number,
    State,
    ObjectKey,
    Size,
    Md5,
    Sniffed,
    CreatedAt,
}

#[derive(DeriveIden)]
enum Tasks {
    Table,
    Id,
    Kind,
    Payload,
    UniqueKey,
    State,
    RunAt,
    Attempts,
    MaxAttempts,
    LeaseOwner,
    LeaseUntil,
    LastError,
    CreatedAt,
    EndedAt,
}

#[derive(DeriveIden)]
enum TaskAttempts {
    Table,
    TaskId,
    Number,
    LeaseOwner,
    StartedAt,
    EndedAt,
    Outcome,
    Error,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let layout = &mut ColumnDef::new(Blobs::Layout);
    layout.string_len(16).not_null().default("whole");
    add_column(schema, "blobs", "layout", layout).await?;
    let claimed_md5 = &mut ColumnDef::new(Blobs::ClaimedMd5);
    add_column(schema, "blobs", "claimed_md5", claimed_md5.var_binary(16)).await?;
    let part_count = &mut ColumnDef::new(Files::PartCount);
    add_column(schema, "files", "part_count", part_count.integer()).await?;
    create_parts(schema).await?;
    create_tasks(schema).await?;
    create_indices(schema).await
}

async fn create_parts(schema: &Schema<'_>) -> Result<(), DbErr> {
    let parts = Table::create()
        .table(Parts::Table)
        .col(ColumnDef::new(Parts::Id).big_integer().not_null().primary_key())
        .col(ColumnDef::new(Parts::BlobId).big_integer().not_null())
        .col(ColumnDef::new(Parts::Number).integer().not_null())
        .col(ColumnDef::new(Parts::State).string_len(16).not_null())
        .col(ColumnDef::new(Parts::ObjectKey).string_len(255).not_null())
        .col(ColumnDef::new(Parts::Size).big_integer().not_null())
        .col(ColumnDef::new(Parts::Md5).var_binary(16))
        .col(ColumnDef::new(Parts::Sniffed).string_len(255))
        .col(ColumnDef::new(Parts::CreatedAt).big_integer().not_null())
        .foreign_key(
            ForeignKey::create()
                .name("fk_parts_blob")
                .from(Parts::Table, Parts::BlobId)
                .to(Blobs::Table, Blobs::Id)
                .on_delete(ForeignKeyAction::Restrict),
        )
        .to_owned();
    create_table(schema, parts).await
}

async fn create_tasks(schema: &Schema<'_>) -> Result<(), DbErr> {
    let tasks = Table::create()
        .table(Tasks::Table)
        .col(ColumnDef::new(Tasks::Id).big_integer().not_null().primary_key())
        .col(ColumnDef::new(Tasks::Kind).string_len(32).not_null())
        .col(ColumnDef::new(Tasks::Payload).text().not_null())
        .col(ColumnDef::new(Tasks::UniqueKey).string_len(64))
        .col(ColumnDef::new(Tasks::State).string_len(16).not_null())
        .col(ColumnDef::new(Tasks::RunAt).big_integer().not_null())
        .col(ColumnDef::new(Tasks::Attempts).integer().not_null())
        .col(ColumnDef::new(Tasks::MaxAttempts).integer().not_null())
        .col(ColumnDef::new(Tasks::LeaseOwner).string_len(64))
        .col(ColumnDef::new(Tasks::LeaseUntil).big_integer())
        .col(ColumnDef::new(Tasks::LastError).text())
        .col(ColumnDef::new(Tasks::CreatedAt).big_integer().not_null())
        .col(ColumnDef::new(Tasks::EndedAt).big_integer())
        .to_owned();
    create_table(schema, tasks).await?;
    let attempts = Table::create()
        .table(TaskAttempts::Table)
        .col(ColumnDef::new(TaskAttempts::TaskId).big_integer().not_null())
        .col(ColumnDef::new(TaskAttempts::Number).integer().not_null())
        .col(ColumnDef::new(TaskAttempts::LeaseOwner).string_len(64).not_null())
        .col(ColumnDef::new(TaskAttempts::StartedAt).big_integer().not_null())
        .col(ColumnDef::new(TaskAttempts::EndedAt).big_integer())
        .col(ColumnDef::new(TaskAttempts::Outcome).string_len(16))
        .col(ColumnDef::new(TaskAttempts::Error).text())
        .primary_key(Index::create().col(TaskAttempts::TaskId).col(TaskAttempts::Number))
        .foreign_key(
            ForeignKey::create()
                .name("fk_task_attempts_task")
                .from(TaskAttempts::Table, TaskAttempts::TaskId)
                .to(Tasks::Table, Tasks::Id)
                .on_delete(ForeignKeyAction::Cascade),
        )
        .to_owned();
    create_table(schema, attempts).await
}

async fn create_indices(schema: &Schema<'_>) -> Result<(), DbErr> {
    // For reading the parts of a blob in order.
    let in_order = Index::create().col(Parts::BlobId).col(Parts::Number).to_owned();
    create_index(schema, "parts", "ix_parts_blob_number", in_order).await?;
    // For the sweep, which looks for rows that are not in state `stored`.
    let by_state = Index::create().col(Parts::State).to_owned();
    create_index(schema, "parts", "ix_parts_state", by_state).await?;
    // For finding expired uploads.
    let lapsed = Index::create().col(Files::State).col(Files::ExpiresAt).to_owned();
    create_index(schema, "files", "ix_files_state_expires", lapsed).await?;
    // For finding the next due task.
    let next = Index::create().col(Tasks::State).col(Tasks::RunAt).to_owned();
    create_index(schema, "tasks", "ix_tasks_state_run", next).await?;
    // For tasks that must exist at most once.
    let unique = Index::create().col(Tasks::UniqueKey).unique().to_owned();
    create_index(schema, "tasks", "uq_tasks_unique_key", unique).await
}
