//! Give an upload up.

use std::sync::Arc;

use super::{closed, unknown_uid};
use crate::{
    Error, Result,
    app::App,
    meta::{FileState, Removed, TaskForBlob},
    tasks::handlers::delete_blob,
    uid::Uid,
};

/// Gives an upload up that is not complete: no content is taken for `uid` any more, and what came of it goes, by a task.
pub async fn abort_upload(app: &Arc<App>, uid: Uid) -> Result<()> {
    let removal = delete_blob::removal(app, app.next_uid().await?);
    // Brought to its end even if the client is gone.
    let aborting = app.background.spawn(abort(app.clone(), uid, removal));
    aborting.await.map_err(Error::internal)?
}

async fn abort(app: Arc<App>, uid: Uid, removal: TaskForBlob) -> Result<()> {
    match app.meta.abort_upload(uid, removal).await? {
        Removed::Now => {
            app.task_enqueued_elsewhere();
            Ok(())
        }
        Removed::Before => {
            let state = app.meta.file_state(uid).await?;
            Err(state.map_or_else(unknown_uid, |state| match state {
                // It came to be so at this moment.
                FileState::Pending | FileState::Receiving => {
                    Error::unavailable("the upload changed meanwhile")
                }
                state => closed(state),
            }))
        }
        Removed::Unknown => Err(unknown_uid()),
    }
}
