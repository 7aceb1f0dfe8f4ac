//! The table of challenges.

use sea_orm::entity::prelude::*;

/// A challenge. The client must prove that it possesses the content of a stored blob. Only then can
/// the client's file share that blob.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "challenges")]
pub struct Model {
    /// The file that waits for content.
    #[sea_orm(primary_key, auto_increment = false)]
    pub uid: i64,
    /// The stored blob.
    pub blob_id: i64,
    /// Random value that determines which bytes the client must hash.
    pub nonce: Vec<u8>,
    /// In milliseconds since the Unix epoch.
    pub expires_at: i64,
}

impl ActiveModelBehavior for ActiveModel {}
