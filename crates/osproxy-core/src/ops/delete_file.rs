//! Delete a file.

use std::sync::Arc;

use osproxy_meta::{DeleteOutcome, FileState};
use osproxy_types::uid::Uid;

use super::{FileOps, Tenant, state_error, unknown_uid_error};
use crate::{Error, Result};

/// Deletes a file of a tenant, complete or not. Nobody can open it when this returns. A task
/// removes the content, unless another file shares it. A repetition changes nothing and fails with
/// `FileGone`.
pub async fn delete_file(files: &Arc<FileOps>, tenant: &Tenant, uid: Uid) -> Result<()> {
    let task_id = files.uids.next().await?;
    // Spawned, so that it runs to its end if the client disconnects: the cache must be invalidated
    // with the file.
    let deleting = files.detached_work.spawn(delete(files.clone(), tenant.clone(), uid, task_id));
    deleting.await.map_err(Error::internal)?
}

async fn delete(files: Arc<FileOps>, tenant: Tenant, uid: Uid, task_id: Uid) -> Result<()> {
    match files.meta.files.delete(tenant, uid, task_id).await? {
        DeleteOutcome::Deleted => {
            files.task_notifier.notify_cluster();
            Ok(())
        }
        // Or its upload was aborted, which gives the same result.
        DeleteOutcome::Unchanged => Err(state_error(FileState::Deleted)),
        DeleteOutcome::Unknown => Err(unknown_uid_error()),
    }
}
