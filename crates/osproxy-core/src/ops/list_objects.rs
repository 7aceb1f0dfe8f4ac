//! List the objects of a bucket.

pub use osproxy_meta::{BucketRecord, ListObjects, ObjectEntry, ObjectPage};

use super::UploadOps;
use crate::{Result, boxed_future};

/// Returns a page of objects and common prefixes, in the bytewise order of the keys.
#[boxed_future]
pub async fn list_objects(
    uploads: &UploadOps,
    bucket: &BucketRecord,
    list: &ListObjects,
) -> Result<ObjectPage> {
    Ok(uploads.meta.objects.list(bucket.id, list).await?)
}
