//! Give a key to a stored file.

use std::sync::Arc;

use osproxy_api::ErrorCode;
use osproxy_meta::{AttachOutcome, NewObject};
use osproxy_types::uid::Uid;

use super::{
    UploadOps, find_object::BucketRecord, object_refusal_error, put_object::name_of_key, state_error,
    unknown_uid_error,
};
use crate::{Caller, Error, Result, boxed_future};

/// Gives the key to a stored file of the caller's tenant, which must not have another key. The file
/// stays when the object is deleted or replaced.
#[boxed_future]
pub async fn attach_object(
    uploads: &Arc<UploadOps>,
    caller: &Caller,
    bucket: &BucketRecord,
    key: &str,
    uid: Uid,
) -> Result<()> {
    name_of_key(key)?;
    let object = NewObject {
        bucket_id: bucket.id,
        key: key.to_owned(),
        condition: None,
        attributes: None,
        is_multipart: false,
        task_id: uploads.uids.next().await?,
    };
    let (attaching, tenant) = (uploads.clone(), caller.tenant.clone());
    // Spawned: the object that is replaced must leave the caches even if the client disconnects.
    let attached =
        uploads.detached_work.spawn(async move { attaching.meta.objects.attach(tenant, uid, object).await });
    match attached.await.map_err(Error::internal)?? {
        AttachOutcome::Attached => {
            uploads.task_notifier.notify_node();
            Ok(())
        }
        AttachOutcome::HasKey => {
            Err(Error::new(ErrorCode::FileIsObject, "the file is the object of another key"))
        }
        AttachOutcome::NotStored(state) => Err(state_error(state)),
        AttachOutcome::OverQuota => Err(Error::quota_exceeded()),
        AttachOutcome::Refused(refusal) => Err(object_refusal_error(refusal)),
        AttachOutcome::Unknown => Err(unknown_uid_error()),
    }
}
