use sea_orm::entity::prelude::*;

/// A request that must not take effect twice.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "idempotency_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub tenant: String,
    /// What the client calls it.
    #[sea_orm(primary_key, auto_increment = false)]
    pub idempotency_key: String,
    /// What method, path and body hash to.
    pub request: Vec<u8>,
    /// The attempt that has it; no two have the same. Empty: its attempt gave it back.
    pub owner: String,
    pub state: State,
    /// HTTP status of the answer; set once done.
    pub status: Option<i32>,
    /// Where what was made is; set once done, if there is such a place.
    pub location: Option<String>,
    /// The answer, JSON; set once done.
    #[sea_orm(column_type = "Text", nullable)]
    pub body: Option<String>,
    /// When it was taken, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// What the request makes has this uid, whichever attempt makes it.
    pub uid: Option<i64>,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// It may be taking effect.
    #[sea_orm(string_value = "running")]
    Running,
    /// It was answered.
    #[sea_orm(string_value = "done")]
    Done,
}

impl ActiveModelBehavior for ActiveModel {}
