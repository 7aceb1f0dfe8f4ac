//! Copy an object without copying its bytes.

use std::sync::Arc;

use osproxy_meta::{CopyOutcome, NewCopy, NewObject};

use super::{
    UploadOps,
    find_object::{BucketRecord, find_object},
    object_refusal_error,
    put_object::{ObjectRequest, StoredObject, check_condition, name_of_key},
    state_error, unknown_object_error,
};
use crate::{Caller, Error, Result, boxed_future, check_metadata};

/// Maximum attempts when the source or the destination changes meanwhile.
const MAX_TRIES: usize = 4;

/// An object to copy.
#[derive(Clone, Copy, Debug)]
pub struct CopySource<'a> {
    /// The bucket, which belongs to the caller's tenant.
    pub bucket: &'a BucketRecord,
    /// The key.
    pub key: &'a str,
    /// The `ETag` that the object must still have.
    pub etag: &'a str,
}

/// Creates an object that shares the content of `source`. Metadata and attributes are those of
/// `request`.
#[boxed_future]
pub async fn copy_object<'a>(
    uploads: &'a Arc<UploadOps>,
    caller: &'a Caller,
    source: CopySource<'a>,
    bucket: &'a BucketRecord,
    request: ObjectRequest,
) -> Result<StoredObject> {
    uploads.admission.check_database_space()?;
    check_metadata(&request.metadata)?;
    check_condition(uploads, bucket, &request).await?;
    let ObjectRequest { key, content_type, metadata, attributes, condition } = request;
    let name = name_of_key(&key)?;
    let task_id = uploads.uids.next().await?;
    let new = NewObject { bucket_id: bucket.id, key, condition, attributes, is_multipart: false, task_id };
    let new = Arc::new(new);
    for _ in 0..MAX_TRIES {
        let object = find_object(uploads, source.bucket, source.key).await?;
        if object.etag != source.etag {
            return Err(Error::unavailable("the source was replaced during the copy; retry"));
        }
        let uid = uploads.uids.next().await?;
        let copy = NewCopy {
            uid,
            name: Some(name.clone()),
            metadata: Some(metadata.clone()),
            content_type: content_type.clone(),
            object: Some((new.clone(), object.etag.clone())),
        };
        let (copying, tenant, source_uid) = (uploads.clone(), caller.tenant.clone(), object.uid);
        // Spawned: the object that is replaced must leave the caches even if the client disconnects.
        let copied = uploads
            .detached_work
            .spawn(async move { copying.meta.files.copy(tenant, source_uid, copy).await });
        match copied.await.map_err(Error::internal)?? {
            CopyOutcome::Copied => {
                uploads.task_notifier.notify_node();
                return Ok(StoredObject { uid, etag: object.etag });
            }
            CopyOutcome::Refused(refusal) => return Err(object_refusal_error(refusal)),
            CopyOutcome::OverQuota => return Err(Error::quota_exceeded()),
            CopyOutcome::NotStored(state) if state.is_complete() => return Err(state_error(state)),
            // The source was deleted or replaced meanwhile, its content has moved, or another object
            // got the key.
            CopyOutcome::NotStored(_)
            | CopyOutcome::Unknown
            | CopyOutcome::Conflict
            | CopyOutcome::UidTaken => {}
        }
    }
    Err(unknown_object_error())
}
