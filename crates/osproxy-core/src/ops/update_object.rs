//! Change what is recorded about an object besides its content.

use super::{
    UploadOps,
    find_object::{BucketRecord, ObjectRecord},
};
use crate::{Error, Result, boxed_future};

/// Sets the attributes of an object. Fails with `Unavailable` if the object was replaced after it
/// was read.
#[boxed_future]
pub async fn update_object(
    uploads: &UploadOps,
    bucket: &BucketRecord,
    object: &ObjectRecord,
    attributes: Option<String>,
) -> Result<()> {
    let key = object.key.clone();
    if uploads.meta.objects.set_attributes(bucket.id, key, object.uid, attributes).await? {
        return Ok(());
    }
    Err(Error::unavailable("the object was replaced meanwhile; retry"))
}
