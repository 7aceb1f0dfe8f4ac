//! The table of objects in buckets.

use sea_orm::entity::prelude::*;

/// A key in a bucket, and the file that it refers to.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "objects")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub bucket_id: i64,
    /// UTF-8. Bytes, so that every database compares keys bytewise.
    #[sea_orm(primary_key, auto_increment = false)]
    pub object_key: Vec<u8>,
    /// The file. A file has at most one key.
    pub uid: i64,
    pub size: i64,
    /// Without quotes.
    pub etag: String,
    /// In milliseconds since the Unix epoch.
    pub modified_at: i64,
    /// Headers, tags and checksums, in a format of the caller.
    #[sea_orm(column_type = "Text", nullable)]
    pub attributes: Option<String>,
    /// 1 if the file was created as an object. Then it is deleted with the object.
    pub owns_file: i32,
}

impl ActiveModelBehavior for ActiveModel {}
