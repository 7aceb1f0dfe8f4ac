//! The table of task attempts.

use sea_orm::entity::prelude::*;

/// One attempt at a task.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "task_attempts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub task_id: i64,
    /// Number of the attempt, 1-based.
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i32,
    /// The process that ran the attempt.
    pub lease_owner: String,
    /// In milliseconds since the Unix epoch.
    pub started_at: i64,
    /// In milliseconds since the Unix epoch; `None` while it runs.
    pub ended_at: Option<i64>,
    /// Set once the attempt has ended.
    pub outcome: Option<Outcome>,
    #[sea_orm(column_type = "Text", nullable)]
    pub error: Option<String>,
}

/// Outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum Outcome {
    /// Succeeded.
    #[sea_orm(string_value = "done")]
    Done,
    /// Failed with an error.
    #[sea_orm(string_value = "failed")]
    Failed,
    /// The lease expired without a result.
    #[sea_orm(string_value = "lost")]
    Lost,
    /// The process shut down before the task ended, and handed the task back.
    #[sea_orm(string_value = "handed_back")]
    HandedBack,
}

impl ActiveModelBehavior for ActiveModel {}
