//! Columns and indexes for listings: the category, metadata and indexed start of the name of a
//! file. Also the table of idempotency keys.

use osproxy_storage::Category;
use sea_orm::{ConnectionTrait, DbErr, DeriveIden, sea_query::{ColumnDef, Expr, ExprTrait, Index, Query, Table}};

use super::{
    super::dialect,
    steps::{Schema, add_column, create_index, create_table},
};

#[derive(DeriveIden)]
enum Files {
    Table,
    Uid,
    Name,
    State,
    Listed,
    Category,
    NameStart,
    Metadata,
}

#[derive(DeriveIden)]
enum IdempotencyKeys {
    Table,
    Tenant,
    IdempotencyKey,
    Request,
    Owner,
    State,
    Status,
    Location,
    Body,
    CreatedAt,
}

/// Number of files updated per statement.
const BATCH: u64 = 1000;

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let backend = schema.backend();
    let listed = &mut ColumnDef::new(Files::Listed);
    add_column(schema, "files", "listed", listed.integer().not_null().default(1)).await?;
    let category = &mut ColumnDef::new(Files::Category);
    let unknown = Category::Unknown.as_str();
    add_column(schema, "files", "category", category.string_len(16).not_null().default(unknown)).await?;
    let name_start = &mut ColumnDef::new(Files::NameStart);
    add_column(schema, "files", "name_start", name_start.var_binary(dialect::NAME_START)).await?;
    let metadata = &mut ColumnDef::new(Files::Metadata);
    add_column(schema, "files", "metadata", dialect::long_text(backend, metadata)).await?;
    fill_in(schema).await?;
    let keys = Table::create()
        .table(IdempotencyKeys::Table)
        .col(ColumnDef::new(IdempotencyKeys::Tenant).string_len(64).not_null())
        .col(ColumnDef::new(IdempotencyKeys::IdempotencyKey).string_len(255).not_null())
        .col(ColumnDef::new(IdempotencyKeys::Request).var_binary(32).not_null())
        .col(ColumnDef::new(IdempotencyKeys::Owner).string_len(64).not_null())
        .col(ColumnDef::new(IdempotencyKeys::State).string_len(16).not_null())
        .col(ColumnDef::new(IdempotencyKeys::Status).integer())
        .col(ColumnDef::new(IdempotencyKeys::Location).string_len(1024))
        .col(dialect::long_text(backend, &mut ColumnDef::new(IdempotencyKeys::Body)))
        .col(ColumnDef::new(IdempotencyKeys::CreatedAt).big_integer().not_null())
        .primary_key(Index::create().col(IdempotencyKeys::Tenant).col(IdempotencyKeys::IdempotencyKey))
        .to_owned();
    create_table(schema, keys).await?;
    create_indices(schema).await
}

/// Sets the new columns of existing files to the values that new files get.
async fn fill_in(schema: &Schema<'_>) -> Result<(), DbErr> {
    let connection = schema.connection();
    let mut after = 0_i64;
    loop {
        let page = Query::select()
            .columns([Files::Uid, Files::Name])
            .from(Files::Table)
            .and_where(Expr::col(Files::Uid).gt(after))
            .order_by(Files::Uid, sea_orm::sea_query::Order::Asc)
            .limit(BATCH)
            .to_owned();
        let mut files: Vec<(i64, String)> = Vec::new();
        for row in connection.query_all(&page).await? {
            files.push((row.try_get_by_index(0)?, row.try_get_by_index(1)?));
        }
        let Some(&(last, _)) = files.last() else {
            break;
        };
        let start = Query::update()
            .table(Files::Table)
            .value(Files::NameStart, dialect::name_start(schema.backend()))
            .and_where(Expr::col(Files::Uid).gt(after))
            .and_where(Expr::col(Files::Uid).lte(last))
            .to_owned();
        connection.execute(&start).await?;
        for category in Category::ALL {
            let of_it = files.iter().filter(|(_, name)| Category::of_name(name) == category);
            let uids: Vec<_> = of_it.map(|(uid, _)| *uid).collect();
            if category == Category::Unknown || uids.is_empty() {
                continue;
            }
            let known = Query::update()
                .table(Files::Table)
                .value(Files::Category, category.as_str())
                .and_where(Expr::col(Files::Uid).is_in(uids))
                .to_owned();
            connection.execute(&known).await?;
        }
        after = last;
    }
    let gone = Query::update()
        .table(Files::Table)
        .value(Files::Listed, 0)
        .and_where(Expr::col(Files::State).is_in(["expired", "deleted"]))
        .to_owned();
    connection.execute(&gone).await?;
    Ok(())
}

/// Creates an index for each kind of listing, so that a page needs no scan of the whole table. Also
/// creates the index for purging idempotency keys.
async fn create_indices(schema: &Schema<'_>) -> Result<(), DbErr> {
    for (name, columns) in [
        ("ix_files_listed", "tenant, listed"),
        ("ix_files_tenant_state", "tenant, state"),
        ("ix_files_category", "tenant, listed, category"),
        ("ix_files_name_start", "tenant, listed, name_start"),
    ] {
        if !schema.has_index("files", name).await? {
            let sql = dialect::listing_index(schema.backend(), name, columns);
            schema.connection().execute_unprepared(&sql).await?;
        }
    }
    // For purging old keys.
    let old = Index::create().col(IdempotencyKeys::CreatedAt).to_owned();
    create_index(schema, "idempotency_keys", "ix_idempotency_keys_created", old).await
}
