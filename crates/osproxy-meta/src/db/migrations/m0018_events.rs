//! Events, and the counter of their positions.

use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, DeriveIden,
    sea_query::{ColumnDef, Expr, Index, Query, Table},
};

use super::{
    super::dialect,
    steps::{Schema, create_index, create_table},
};

#[derive(DeriveIden)]
enum Events {
    Table,
    Id,
    Position,
    Tenant,
    Kind,
    Uid,
    CreatedAt,
    Payload,
}

#[derive(DeriveIden)]
enum EventPositions {
    Table,
    Id,
    Next,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let events = Table::create()
        .table(Events::Table)
        .col(ColumnDef::new(Events::Id).big_integer().not_null().auto_increment().primary_key())
        .col(ColumnDef::new(Events::Position).big_integer())
        .col(ColumnDef::new(Events::Tenant).string_len(64).not_null())
        .col(ColumnDef::new(Events::Kind).string_len(32).not_null())
        .col(ColumnDef::new(Events::Uid).big_integer())
        .col(ColumnDef::new(Events::CreatedAt).big_integer().not_null())
        .col(dialect::long_text(schema.backend(), ColumnDef::new(Events::Payload).not_null()))
        .to_owned();
    create_table(schema, events).await?;
    let of_file = Index::create().col(Events::Uid).to_owned();
    create_index(schema, "events", "ix_events_uid", of_file).await?;
    if schema.backend() == DbBackend::Sqlite {
        let of_tenant = Index::create().col(Events::Tenant).col(Events::Id).to_owned();
        return create_index(schema, "events", "ix_events_tenant", of_tenant).await;
    }
    let of_tenant = Index::create().col(Events::Tenant).col(Events::Position).to_owned();
    create_index(schema, "events", "ix_events_tenant", of_tenant).await?;
    let in_order = Index::create().col(Events::Position).unique().to_owned();
    create_index(schema, "events", "ux_events_position", in_order).await?;
    let positions = Table::create()
        .table(EventPositions::Table)
        .col(ColumnDef::new(EventPositions::Id).integer().not_null().primary_key())
        .col(ColumnDef::new(EventPositions::Next).big_integer().not_null())
        .to_owned();
    create_table(schema, positions).await?;
    let row = Query::select().column(EventPositions::Id).from(EventPositions::Table).to_owned();
    if schema.connection().query_one(&row).await?.is_none() {
        let first = Query::insert()
            .into_table(EventPositions::Table)
            .columns([EventPositions::Id, EventPositions::Next])
            .values_panic([Expr::value(1), Expr::value(1_i64)])
            .to_owned();
        schema.connection().execute(&first).await?;
    }
    Ok(())
}
