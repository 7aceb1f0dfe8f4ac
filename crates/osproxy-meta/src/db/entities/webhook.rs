//! The table of webhooks.

use sea_orm::entity::prelude::*;

/// An endpoint that gets the events of a tenant.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "webhooks")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    pub tenant: String,
    /// Name in the configuration file; `None` if the webhook was created otherwise.
    pub config_name: Option<String>,
    #[sea_orm(column_type = "Text")]
    pub url: String,
    pub secret: Vec<u8>,
    /// The secret before the latest rotation, which also signs until `previous_until`.
    pub previous_secret: Option<Vec<u8>>,
    /// All timestamps are in milliseconds since the Unix epoch.
    pub previous_until: Option<i64>,
    /// Which events it gets, as JSON.
    #[sea_orm(column_type = "Text")]
    pub filters: String,
    pub state: State,
    /// Why it is disabled.
    pub reason: Option<String>,
    /// Every event up to this position is delivered, or has a row in `webhook_deliveries`.
    pub position: i64,
    /// Changes whenever `position` is set by something else than a delivery.
    pub epoch: i32,
    /// Changes whenever somebody changes the webhook or its deliveries.
    pub version: i32,
    /// Failed attempts since the latest successful one.
    pub failures: i32,
    /// Nothing is sent before this time.
    pub retry_at: Option<i64>,
    pub created_at: i64,
}

/// Whether a webhook gets events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// Gets events.
    #[sea_orm(string_value = "enabled")]
    Enabled,
    /// Gets no events, until it is enabled.
    #[sea_orm(string_value = "disabled")]
    Disabled,
}

impl ActiveModelBehavior for ActiveModel {}
