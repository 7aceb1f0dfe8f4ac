//! The table of idempotency keys.

use sea_orm::entity::prelude::*;

/// An idempotency key and the request it was used for.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "idempotency_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub tenant: String,
    /// The key, chosen by the client.
    #[sea_orm(primary_key, auto_increment = false)]
    pub idempotency_key: String,
    /// Hash of method, path and body.
    pub request: Vec<u8>,
    /// Unique id of the execution that owns the key; empty after the key is released.
    pub owner: String,
    pub state: State,
    /// HTTP status of the answer; set once done.
    pub status: Option<i32>,
    /// `Location` header of the answer, if the request created a resource; set once done.
    pub location: Option<String>,
    /// JSON body of the answer; set once done.
    #[sea_orm(column_type = "Text", nullable)]
    pub body: Option<String>,
    /// When the key was acquired or most recently renewed, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Uid of the file that the request creates. Retries of the request use the same uid.
    pub uid: Option<i64>,
}

/// State of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))")]
pub enum State {
    /// Not answered yet. The request may have taken effect already.
    #[sea_orm(string_value = "running")]
    Running,
    /// Answered.
    #[sea_orm(string_value = "done")]
    Done,
}

impl ActiveModelBehavior for ActiveModel {}
