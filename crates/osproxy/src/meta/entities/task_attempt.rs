use sea_orm::entity::prelude::*;

/// One time that a task was begun.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "task_attempts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub task_id: i64,
    /// From 1 on.
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i32,
    /// The process that worked on it.
    pub lease_owner: String,
    /// In milliseconds since the Unix epoch.
    pub started_at: i64,
    /// In milliseconds since the Unix epoch; not set while it runs.
    pub ended_at: Option<i64>,
    /// Not set while it runs.
    pub outcome: Option<Outcome>,
    #[sea_orm(column_type = "Text", nullable)]
    pub error: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum Outcome {
    /// Well.
    #[sea_orm(string_value = "done")]
    Done,
    /// With an error.
    #[sea_orm(string_value = "failed")]
    Failed,
    /// Its process was never heard of again.
    #[sea_orm(string_value = "lost")]
    Lost,
    /// Its process stopped before it was through, and said so.
    #[sea_orm(string_value = "handed_back")]
    HandedBack,
}

impl ActiveModelBehavior for ActiveModel {}
