//! Find the object that has a key.

use std::sync::Arc;

use osproxy_api::ErrorCode;
pub use osproxy_meta::{BucketRecord, FileMetadata, ObjectRecord, StoredFile};

use super::{UploadOps, download_file::download_file, unknown_object_error};
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
    /// Metadata set by the owner.
    pub metadata: FileMetadata,
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
        let found = uploads.meta.objects.object_and_metadata(bucket.id, key).await?;
        let (object, metadata) = found.ok_or_else(unknown_object_error)?;
        match download_file(&uploads.files, object.uid).await {
            // The object was replaced or deleted meanwhile.
            Err(error) if matches!(error.code, ErrorCode::FileGone | ErrorCode::FileNotFound) => {}
            found => return Ok(FoundObject { object, file: found?, metadata }),
        }
    }
    Err(Error::unavailable("the object is replaced too often; retry"))
}
