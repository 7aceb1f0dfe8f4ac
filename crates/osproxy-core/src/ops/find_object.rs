//! Find the object that has a key.

use std::sync::Arc;

use osproxy_api::ErrorCode;
pub use osproxy_meta::{BucketRecord, FileRecord, ObjectRecord, StoredFile};

use super::{UploadOps, describe_file::describe_file, download_file::download_file, unknown_object_error};
use crate::{Error, Result, boxed_future};

/// Maximum attempts if the object is replaced while it is looked up.
const MAX_TRIES: usize = 20;

/// An object with its file.
#[derive(Clone, Debug)]
pub struct FoundObject {
    /// The object.
    pub object: ObjectRecord,
    /// Its file, whose content can be opened.
    pub file: Arc<StoredFile>,
    /// The record of the file.
    pub record: FileRecord,
}

/// Returns the object with this key. Fails with `ObjectNotFound`.
#[boxed_future]
pub async fn find_object(uploads: &UploadOps, bucket: &BucketRecord, key: &str) -> Result<ObjectRecord> {
    uploads.meta.objects.object(bucket.id, key).await?.ok_or_else(unknown_object_error)
}

/// Returns the object with this key, and its file. Fails with `ObjectNotFound`, or with the error for
/// the state of the file.
#[boxed_future]
pub async fn find_content(uploads: &UploadOps, bucket: &BucketRecord, key: &str) -> Result<FoundObject> {
    for _ in 0..MAX_TRIES {
        let object = find_object(uploads, bucket, key).await?;
        match content_of(uploads, bucket, object).await {
            // The object was replaced or deleted meanwhile.
            Err(error) if matches!(error.code, ErrorCode::FileGone | ErrorCode::FileNotFound) => {}
            found => return found,
        }
    }
    Err(Error::unavailable("the object is replaced too often; retry"))
}

async fn content_of(uploads: &UploadOps, bucket: &BucketRecord, object: ObjectRecord) -> Result<FoundObject> {
    let file = download_file(&uploads.files, object.uid).await?;
    let record = describe_file(&uploads.files, &bucket.tenant, object.uid).await?;
    Ok(FoundObject { object, file, record })
}
