//! Delete a file.

use std::sync::Arc;

use super::{Tenant, closed, unknown_uid};
use crate::{
    Error, Result,
    app::App,
    meta::{FileState, Removed, TaskForBlob},
    tasks::handlers::delete_blob,
    uid::Uid,
};

/// Deletes a file of a tenant, complete or not. Nobody can open it when this returns. A task
/// removes the content, unless another file shares it. A repetition changes nothing and fails with
/// `FileGone`.
pub async fn delete_file(app: &Arc<App>, tenant: &Tenant, uid: Uid) -> Result<()> {
    let removal = delete_blob::removal(app, app.next_uid().await?);
    // Spawned, so that it runs to its end if the client disconnects: the cache must be invalidated
    // with the file.
    let deleting = app.background.spawn(delete(app.clone(), tenant.clone(), uid, removal));
    deleting.await.map_err(Error::internal)?
}

async fn delete(app: Arc<App>, tenant: Tenant, uid: Uid, removal: TaskForBlob) -> Result<()> {
    match app.meta.delete_file(tenant, uid, removal).await? {
        Removed::Deleted => {
            app.task_enqueued_elsewhere();
            Ok(())
        }
        // Or its upload was aborted, which gives the same result.
        Removed::Unchanged => Err(closed(FileState::Deleted)),
        Removed::Unknown => Err(unknown_uid()),
    }
}
