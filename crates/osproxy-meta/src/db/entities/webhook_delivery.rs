//! The table of deliveries to webhooks.

use sea_orm::entity::prelude::*;

/// The delivery of one event to one webhook: an entry of the log, and of the queue of retries.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "webhook_deliveries")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub webhook_id: i64,
    /// Position of the event.
    #[sea_orm(primary_key, auto_increment = false)]
    pub position: i64,
    /// Kind of the event.
    pub kind: String,
    /// Uid of the file that the event is about.
    pub uid: Option<i64>,
    pub state: State,
    /// Number of attempts.
    pub attempts: i32,
    /// When the next attempt is due; `None` unless the state is `retrying`. All timestamps are in
    /// milliseconds since the Unix epoch.
    pub next_at: Option<i64>,
    /// When the latest attempt ended.
    pub attempted_at: i64,
    /// Status of the latest response.
    pub status: Option<i32>,
    /// Duration of the latest attempt in milliseconds.
    pub duration_ms: i32,
    /// Why the latest attempt failed.
    pub error: Option<String>,
}

/// State of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// The endpoint accepted it.
    #[sea_orm(string_value = "delivered")]
    Delivered,
    /// An attempt failed; the next one is due at `next_at`.
    #[sea_orm(string_value = "retrying")]
    Retrying,
    /// No attempts are left.
    #[sea_orm(string_value = "dead")]
    Dead,
}

impl ActiveModelBehavior for ActiveModel {}
