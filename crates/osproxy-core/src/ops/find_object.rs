//! Find the object that has a key.

use std::sync::Arc;

use osproxy_api::ErrorCode;
pub use osproxy_meta::{BucketRecord, ObjectName, ObjectRecord, StoredFile};
use osproxy_types::uid::Uid;

use super::{UploadOps, download_file::download_file, unknown_object_error};
use crate::{Result, boxed_future};

/// Maximum attempts if the object is replaced while it is looked up.
const MAX_TRIES: usize = 3;

/// Returns the object with this key. Fails with `ObjectNotFound`.
#[boxed_future]
pub async fn find_object(uploads: &UploadOps, bucket: &BucketRecord, key: &str) -> Result<ObjectRecord> {
    uploads.meta.objects.object(bucket.id, key).await?.ok_or_else(unknown_object_error)
}

/// Returns the object with this key, and its file, whose content can be opened. Fails with
/// `ObjectNotFound`, or with the error for the state of the file.
#[boxed_future]
pub async fn find_content(
    uploads: &UploadOps,
    bucket: &BucketRecord,
    key: &str,
) -> Result<(ObjectRecord, Arc<StoredFile>)> {
    for _ in 1..MAX_TRIES {
        let object = find_object(uploads, bucket, key).await?;
        match download_file(&uploads.files, object.uid).await {
            Ok(file) => return Ok((object, file)),
            // The object was replaced or deleted meanwhile.
            Err(error) if matches!(error.code, ErrorCode::FileGone | ErrorCode::FileNotFound) => {}
            Err(error) => return Err(error),
        }
    }
    let object = find_object(uploads, bucket, key).await?;
    let file = download_file(&uploads.files, object.uid).await?;
    Ok((object, file))
}

/// Returns bucket and key of a file; `None` if it is no object.
#[boxed_future]
pub async fn name_of_file(uploads: &UploadOps, uid: Uid) -> Result<Option<ObjectName>> {
    Ok(uploads.meta.objects.name_of(uid).await?)
}
