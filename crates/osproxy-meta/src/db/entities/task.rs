//! The table of tasks.

use sea_orm::entity::prelude::*;

/// A task: durable background work.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "tasks")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    /// Selects the handler.
    pub kind: String,
    /// JSON for the handler.
    #[sea_orm(column_type = "Text")]
    pub payload: String,
    /// Set for tasks that must exist at most once. No two tasks have the same key.
    #[sea_orm(unique)]
    pub unique_key: Option<String>,
    /// The store that the handler needs access to, if any.
    pub store: Option<String>,
    pub state: State,
    /// Earliest time of the next attempt, in milliseconds since the Unix epoch.
    pub run_at: i64,
    /// Number of attempts started.
    pub attempts: i32,
    /// Maximum number of attempts.
    pub max_attempts: i32,
    /// The process that runs the task.
    pub lease_owner: Option<String>,
    /// When the lease expires, in milliseconds since the Unix epoch. Other processes can then take
    /// the task.
    pub lease_until: Option<i64>,
    /// The most recent error of an attempt. A successful attempt clears it.
    #[sea_orm(column_type = "Text", nullable)]
    pub last_error: Option<String>,
    pub created_at: i64,
    /// When the task succeeded or became dead, in milliseconds since the Unix epoch.
    pub ended_at: Option<i64>,
}

/// State of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// Waits until `run_at`, or for a node.
    #[sea_orm(string_value = "queued")]
    Queued,
    /// Leased by a node.
    #[sea_orm(string_value = "running")]
    Running,
    /// Succeeded.
    #[sea_orm(string_value = "done")]
    Done,
    /// Out of attempts or failed permanently; an operator must look at it.
    #[sea_orm(string_value = "dead")]
    Dead,
}

impl ActiveModelBehavior for ActiveModel {}
