//! Delete a file.

use std::sync::Arc;

use osproxy_meta::{DeleteOutcome, FileState};
use osproxy_types::uid::Uid;

use super::{FileOps, Tenant, state_error, unknown_uid_error};
use crate::{Error, Result, boxed_future};

/// Deletes a file of a tenant, complete or not. A task removes the content, unless another file
/// shares it. A second call fails with `FileGone`. Other nodes may serve the file from their cache
/// until they receive the invalidation, for at most `database.cache_max_age`.
#[boxed_future]
pub async fn delete_file(files: &Arc<FileOps>, tenant: &Tenant, uid: Uid) -> Result<()> {
    let task_id = files.uids.next().await?;
    // Spawned: after the row changes, the cached file must be invalidated, even if the client
    // disconnects.
    let deleting = files.detached_work.spawn(delete(files.clone(), tenant.clone(), uid, task_id));
    deleting.await.map_err(Error::internal)?
}

async fn delete(files: Arc<FileOps>, tenant: Tenant, uid: Uid, task_id: Uid) -> Result<()> {
    match files.meta.files.delete(tenant, uid, task_id).await? {
        DeleteOutcome::Deleted => {
            files.task_notifier.notify_cluster();
            Ok(())
        }
        // The file was deleted, aborted or expired before.
        DeleteOutcome::Unchanged => match files.meta.files.state(uid).await? {
            Some(FileState::Quarantined) => Err(state_error(FileState::Quarantined)),
            _ => Err(state_error(FileState::Deleted)),
        },
        DeleteOutcome::Unknown => Err(unknown_uid_error()),
    }
}
