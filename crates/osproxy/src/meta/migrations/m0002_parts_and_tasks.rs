use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{DbErr, DeriveIden},
    sea_query::{ColumnDef, ForeignKey, ForeignKeyAction, Index, Table},
};

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0002_parts_and_tasks"
    }
}

#[derive(DeriveIden)]
enum Blobs {
    Table,
    Id,
    Layout,
    ClaimedMd5,
}

#[derive(DeriveIden)]
enum Files {
    Table,
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

#[async_trait]
impl MigrationTrait for Migration {
    /// All of it or nothing, where the database can.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // One at a time: SQLite takes no more.
        for column in [
            ColumnDef::new(Blobs::Layout).string_len(16).not_null().default("whole").to_owned(),
            ColumnDef::new(Blobs::ClaimedMd5).var_binary(16).to_owned(),
        ] {
            manager.alter_table(Table::alter().table(Blobs::Table).add_column(column).to_owned()).await?;
        }
        let column = ColumnDef::new(Files::PartCount).integer().to_owned();
        manager.alter_table(Table::alter().table(Files::Table).add_column(column).to_owned()).await?;
        create_parts(manager).await?;
        create_tasks(manager).await?;
        create_indices(manager).await
    }
}

async fn create_parts(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
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
    manager.create_table(parts).await
}

async fn create_tasks(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
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
    manager.create_table(tasks).await?;
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
    manager.create_table(attempts).await
}

async fn create_indices(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let indices = [
        // The parts of a blob, in their order.
        Index::create()
            .name("ix_parts_blob_number")
            .table(Parts::Table)
            .col(Parts::BlobId)
            .col(Parts::Number)
            .to_owned(),
        // The sweeper's question: what is not stored?
        Index::create().name("ix_parts_state").table(Parts::Table).col(Parts::State).to_owned(),
        // Which uploads have lapsed?
        Index::create()
            .name("ix_files_state_expires")
            .table(Files::Table)
            .col(Files::State)
            .col(Files::ExpiresAt)
            .to_owned(),
        // What is to be done next?
        Index::create()
            .name("ix_tasks_state_run")
            .table(Tasks::Table)
            .col(Tasks::State)
            .col(Tasks::RunAt)
            .to_owned(),
        // Tasks of which there is one.
        Index::create()
            .name("uq_tasks_unique_key")
            .table(Tasks::Table)
            .col(Tasks::UniqueKey)
            .unique()
            .to_owned(),
    ];
    for index in indices {
        manager.create_index(index).await?;
    }
    Ok(())
}
