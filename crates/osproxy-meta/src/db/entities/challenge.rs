//! The table of challenges.

use sea_orm::entity::prelude::*;

/// Proof of possession that a client must give before its file gets stored content.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "challenges")]
pub struct Model {
    /// The file that waits for content.
    #[sea_orm(primary_key, auto_increment = false)]
    pub uid: i64,
    /// The blob in question.
    pub blob_id: i64,
    /// Random value that determines the question.
    pub nonce: Vec<u8>,
    /// In milliseconds since the Unix epoch.
    pub expires_at: i64,
}

impl ActiveModelBehavior for ActiveModel {}
