use sea_orm::entity::prelude::*;

/// A piece of background work.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "tasks")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    /// Names the handler.
    pub kind: String,
    /// JSON that the handler understands.
    #[sea_orm(column_type = "Text")]
    pub payload: String,
    /// Set for work of which there is one.
    #[sea_orm(unique)]
    pub unique_key: Option<String>,
    /// The store that has to be at hand, if the work is on its objects.
    pub store: Option<String>,
    pub state: State,
    /// When it may be begun, in milliseconds since the Unix epoch.
    pub run_at: i64,
    /// How often it was begun.
    pub attempts: i32,
    /// How often it may be begun.
    pub max_attempts: i32,
    /// The process that works on it.
    pub lease_owner: Option<String>,
    /// Until when it does, in milliseconds since the Unix epoch; then others may.
    pub lease_until: Option<i64>,
    /// Why the last attempt did not succeed.
    #[sea_orm(column_type = "Text", nullable)]
    pub last_error: Option<String>,
    pub created_at: i64,
    /// When it was done or given up, in milliseconds since the Unix epoch.
    pub ended_at: Option<i64>,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// Waits for its time, or for a worker.
    #[sea_orm(string_value = "queued")]
    Queued,
    /// A worker has it, as long as its lease holds.
    #[sea_orm(string_value = "running")]
    Running,
    /// Ended well.
    #[sea_orm(string_value = "done")]
    Done,
    /// Given up; somebody has to look at it.
    #[sea_orm(string_value = "dead")]
    Dead,
}

impl ActiveModelBehavior for ActiveModel {}
