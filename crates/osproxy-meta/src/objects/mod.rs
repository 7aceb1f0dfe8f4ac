//! Buckets and objects: the names that files have in the S3 API.
//!
//! A file that is uploaded as an object is bound to its key in the transaction that makes it
//! readable. The file that had the key before is deleted in the same transaction. Until then, a row
//! in `object_uploads` says which key the file will get.

pub(crate) mod bind;
mod buckets;
mod changes;
mod lifecycle;
mod listing;
pub(crate) mod multipart;
pub(crate) mod names;

use std::sync::Arc;

use osproxy_types::uid::Uid;

use crate::db::{database::Database, entities::object};

pub use bind::{NewObject, ObjectCondition, ObjectRefusal};
pub use buckets::{BucketChanges, BucketRecord, BucketSummary, CreateBucketOutcome, DeleteBucketOutcome};
pub use changes::{AttachOutcome, AttributesEdit, EditAttributesOutcome};
pub use lifecycle::LifecycleBucket;
pub use listing::{CompletedUpload, ListObjects, ListedObject, ObjectEntry, ObjectPage};
pub use multipart::{ObjectUploadRecord, PartSelection, UploadedPart, etag_of_parts};

/// Maximum length of a key in bytes.
pub const MAX_OBJECT_KEY: usize = 1024;

/// Buckets and objects.
#[derive(Clone)]
pub struct ObjectDb {
    pub(crate) db: Arc<Database>,
}

/// An object in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRecord {
    /// The key; at most [`MAX_OBJECT_KEY`] bytes.
    pub key: String,
    /// The file that has the content.
    pub uid: Uid,
    /// Size in bytes.
    pub size: u64,
    /// The `ETag`, without quotes.
    pub etag: String,
    /// When the key was last written, in milliseconds since the Unix epoch.
    pub modified_at: i64,
    /// Headers, tags and checksums, in a format of the caller.
    pub attributes: Option<String>,
}

impl ObjectRecord {
    fn from_row(row: object::Model) -> Self {
        Self {
            key: decode_key(row.object_key),
            uid: Uid::from_db(row.uid),
            size: row.size.unsigned_abs(),
            etag: row.etag,
            modified_at: row.modified_at,
            attributes: row.attributes,
        }
    }
}

/// Keys are UTF-8 when they are written.
pub(crate) fn decode_key(key: Vec<u8>) -> String {
    String::from_utf8(key).unwrap_or_else(|key| String::from_utf8_lossy(key.as_bytes()).into_owned())
}

/// The bucket and the key of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName {
    /// Name of the bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
}
