use sea_orm::entity::prelude::*;

/// What whoever wants a file of content that is stored must answer first.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "challenges")]
pub struct Model {
    /// The file that waits for its content.
    #[sea_orm(primary_key, auto_increment = false)]
    pub uid: i64,
    /// The content.
    pub blob_id: i64,
    /// Of which it follows what is asked.
    pub nonce: Vec<u8>,
    /// From when on it cannot be answered, in milliseconds since the Unix epoch.
    pub expires_at: i64,
}

impl ActiveModelBehavior for ActiveModel {}
