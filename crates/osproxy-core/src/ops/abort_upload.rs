//! Abort an upload.

use std::sync::Arc;

use osproxy_meta::{DeleteOutcome, FileState};
use osproxy_types::uid::Uid;

use super::{UploadOps, state_error, unknown_uid_error};
use crate::{Error, Result, boxed_future};

/// Aborts an upload that is not complete: `uid` accepts no more content, and a task removes the
/// content received so far. Ends a request that appends to the upload. Fails with the error for the
/// file's state if the upload has ended.
#[boxed_future]
pub async fn abort_upload(uploads: &Arc<UploadOps>, uid: Uid) -> Result<()> {
    let task_id = uploads.uids.next().await?;
    // Spawned: this must complete even if the client disconnects.
    let aborting = uploads.detached_work.spawn(abort(uploads.clone(), uid, task_id));
    aborting.await.map_err(Error::internal)?
}

async fn abort(uploads: Arc<UploadOps>, uid: Uid, task_id: Uid) -> Result<()> {
    // The part that is being appended would stay until the next sweep. If the request does not end in
    // time, the upload is aborted nevertheless.
    let _lock = uploads.append_locks.acquire(uid).await.ok();
    match uploads.meta.uploads.abort(uid, task_id).await? {
        DeleteOutcome::Deleted => {
            uploads.task_notifier.notify_cluster();
            Ok(())
        }
        DeleteOutcome::Unchanged => {
            let state = uploads.meta.files.state(uid).await?;
            Err(state.map_or_else(unknown_uid_error, |state| match state {
                // A concurrent request changed the file during the abort.
                FileState::Pending | FileState::Receiving | FileState::Partial => {
                    Error::unavailable("the upload changed while it was being aborted; retry")
                }
                state => state_error(state),
            }))
        }
        DeleteOutcome::Unknown => Err(unknown_uid_error()),
    }
}
