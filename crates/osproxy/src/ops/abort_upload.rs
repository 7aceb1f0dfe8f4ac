//! Abort an upload.

use std::sync::Arc;

use super::{closed, unknown_uid};
use crate::{
    Error, Result,
    app::App,
    meta::{FileState, Removed, TaskForBlob},
    tasks::handlers::delete_blob,
    uid::Uid,
};

/// Aborts an upload that is not complete: `uid` accepts no more content, and a task removes what
/// was received.
pub async fn abort_upload(app: &Arc<App>, uid: Uid) -> Result<()> {
    let removal = delete_blob::removal(app, app.next_uid().await?);
    // Spawned, so that it runs to its end if the client disconnects.
    let aborting = app.background.spawn(abort(app.clone(), uid, removal));
    aborting.await.map_err(Error::internal)?
}

async fn abort(app: Arc<App>, uid: Uid, removal: TaskForBlob) -> Result<()> {
    match app.meta.abort_upload(uid, removal).await? {
        Removed::Deleted => {
            app.task_enqueued_elsewhere();
            Ok(())
        }
        Removed::Unchanged => {
            let state = app.meta.file_state(uid).await?;
            Err(state.map_or_else(unknown_uid, |state| match state {
                // The file reached this state a moment ago.
                FileState::Pending | FileState::Receiving => {
                    Error::unavailable("the upload has changed meanwhile")
                }
                state => closed(state),
            }))
        }
        Removed::Unknown => Err(unknown_uid()),
    }
}
