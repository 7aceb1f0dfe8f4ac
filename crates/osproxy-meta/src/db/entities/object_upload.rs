//! The table of files that become objects when they are complete and accepted.

use sea_orm::entity::prelude::*;

/// The key that a file will get.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "object_uploads")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub uid: i64,
    pub bucket_id: i64,
    pub object_key: Vec<u8>,
    /// Empty if there must be no object with this key, or else the `ETag` that this object must have,
    /// or `*`. Not set for a multipart upload until it is completed.
    pub condition: Option<String>,
    /// Headers, tags and checksums, in a format of the caller.
    #[sea_orm(column_type = "Text", nullable)]
    pub attributes: Option<String>,
    /// Set when the content is complete.
    pub etag: Option<String>,
    /// 1 for a multipart upload that the client has begun.
    pub is_multipart: i32,
    /// An unused id for the task that deletes the content of the object that is replaced.
    pub task_id: i64,
    /// In milliseconds since the Unix epoch.
    pub created_at: i64,
}

impl ActiveModelBehavior for ActiveModel {}
