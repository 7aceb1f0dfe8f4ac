//! Webhooks, and their deliveries.

use sea_orm::{
    DbErr, DeriveIden,
    sea_query::{ColumnDef, Index, Table},
};

use super::steps::{Schema, create_index, create_table};

#[derive(DeriveIden)]
enum Webhooks {
    Table,
    Id,
    Tenant,
    ConfigName,
    Url,
    Secret,
    PreviousSecret,
    PreviousUntil,
    Filters,
    State,
    Reason,
    Position,
    Epoch,
    Version,
    Failures,
    RetryAt,
    CreatedAt,
}

#[derive(DeriveIden)]
enum WebhookDeliveries {
    Table,
    WebhookId,
    Position,
    Kind,
    Uid,
    State,
    Attempts,
    NextAt,
    AttemptedAt,
    Status,
    DurationMs,
    Error,
}

pub(super) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    let webhooks = Table::create()
        .table(Webhooks::Table)
        .col(ColumnDef::new(Webhooks::Id).big_integer().not_null().primary_key())
        .col(ColumnDef::new(Webhooks::Tenant).string_len(64).not_null())
        .col(ColumnDef::new(Webhooks::ConfigName).string_len(64))
        .col(ColumnDef::new(Webhooks::Url).text().not_null())
        .col(ColumnDef::new(Webhooks::Secret).var_binary(64).not_null())
        .col(ColumnDef::new(Webhooks::PreviousSecret).var_binary(64))
        .col(ColumnDef::new(Webhooks::PreviousUntil).big_integer())
        .col(ColumnDef::new(Webhooks::Filters).text().not_null())
        .col(ColumnDef::new(Webhooks::State).string_len(16).not_null())
        .col(ColumnDef::new(Webhooks::Reason).string_len(255))
        .col(ColumnDef::new(Webhooks::Position).big_integer().not_null())
        .col(ColumnDef::new(Webhooks::Epoch).integer().not_null())
        .col(ColumnDef::new(Webhooks::Version).integer().not_null())
        .col(ColumnDef::new(Webhooks::Failures).integer().not_null())
        .col(ColumnDef::new(Webhooks::RetryAt).big_integer())
        .col(ColumnDef::new(Webhooks::CreatedAt).big_integer().not_null())
        .to_owned();
    create_table(schema, webhooks).await?;
    let of_tenant = Index::create().col(Webhooks::Tenant).col(Webhooks::Id).to_owned();
    create_index(schema, "webhooks", "ix_webhooks_tenant", of_tenant).await?;
    let by_state = Index::create().col(Webhooks::State).col(Webhooks::Id).to_owned();
    create_index(schema, "webhooks", "ix_webhooks_state", by_state).await?;
    let configured = Index::create().col(Webhooks::ConfigName).unique().to_owned();
    create_index(schema, "webhooks", "ux_webhooks_config_name", configured).await?;
    let deliveries = Table::create()
        .table(WebhookDeliveries::Table)
        .col(ColumnDef::new(WebhookDeliveries::WebhookId).big_integer().not_null())
        .col(ColumnDef::new(WebhookDeliveries::Position).big_integer().not_null())
        .col(ColumnDef::new(WebhookDeliveries::Kind).string_len(32).not_null())
        .col(ColumnDef::new(WebhookDeliveries::Uid).big_integer())
        .col(ColumnDef::new(WebhookDeliveries::State).string_len(16).not_null())
        .col(ColumnDef::new(WebhookDeliveries::Attempts).integer().not_null())
        .col(ColumnDef::new(WebhookDeliveries::NextAt).big_integer())
        .col(ColumnDef::new(WebhookDeliveries::AttemptedAt).big_integer().not_null())
        .col(ColumnDef::new(WebhookDeliveries::Status).integer())
        .col(ColumnDef::new(WebhookDeliveries::DurationMs).integer().not_null())
        .col(ColumnDef::new(WebhookDeliveries::Error).string_len(255))
        .primary_key(Index::create().col(WebhookDeliveries::WebhookId).col(WebhookDeliveries::Position))
        .to_owned();
    create_table(schema, deliveries).await?;
    // For the log of a webhook by state, newest first.
    let by_state = Index::create()
        .col(WebhookDeliveries::WebhookId)
        .col(WebhookDeliveries::State)
        .col(WebhookDeliveries::Position)
        .to_owned();
    create_index(schema, "webhook_deliveries", "ix_webhook_deliveries_state", by_state).await?;
    let due = Index::create().col(WebhookDeliveries::WebhookId).col(WebhookDeliveries::NextAt).to_owned();
    create_index(schema, "webhook_deliveries", "ix_webhook_deliveries_next", due).await?;
    // For purging old deliveries.
    let old = Index::create().col(WebhookDeliveries::AttemptedAt).to_owned();
    create_index(schema, "webhook_deliveries", "ix_webhook_deliveries_old", old).await
}
