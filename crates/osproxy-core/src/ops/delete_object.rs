//! Delete the object that has a key.

use std::sync::Arc;

use osproxy_meta::{BucketRecord, ObjectCondition};

use super::{UploadOps, object_refusal_error};
use crate::{Error, Result, boxed_future};

/// Deletes the object with this key, and its file if that was created as an object. Succeeds if
/// there is none, unless `condition` requires one: then fails with `ObjectNotFound`, or with
/// `PreconditionFailed` if the object is another. A task removes the content.
#[boxed_future]
pub async fn delete_object(
    uploads: &Arc<UploadOps>,
    bucket: &BucketRecord,
    key: &str,
    condition: Option<ObjectCondition>,
) -> Result<()> {
    let task_id = uploads.uids.next().await?;
    let (deleting, bucket_id, key) = (uploads.clone(), bucket.id, key.to_owned());
    // Spawned: this must complete even if the client disconnects.
    let deleted = uploads.detached_work.spawn(async move {
        let refusal = deleting.meta.objects.delete_object(bucket_id, key, condition, task_id).await?;
        deleting.task_notifier.notify_node();
        Ok::<_, Error>(refusal)
    });
    match deleted.await.map_err(Error::internal)?? {
        Some(refusal) => Err(object_refusal_error(refusal)),
        None => Ok(()),
    }
}
