//! Remove a file.

use std::sync::Arc;

use super::{Tenant, closed, unknown_uid};
use crate::{
    Error, Result,
    app::App,
    meta::{FileState, Removed, TaskForBlob},
    tasks::handlers::delete_blob,
    uid::Uid,
};

/// Removes a file of a tenant, whether it is complete or still arriving. Nobody can read it when this returns. Its content goes
/// too, by a task, unless another file shares it. When it is called again it changes nothing, and says that the file is
/// gone.
pub async fn delete_file(app: &Arc<App>, tenant: &Tenant, uid: Uid) -> Result<()> {
    let removal = delete_blob::removal(app, app.next_uid().await?);
    // Brought to its end even if the client is gone: what is remembered of the file must go with it.
    let deleting = app.background.spawn(delete(app.clone(), tenant.clone(), uid, removal));
    deleting.await.map_err(Error::internal)?
}

async fn delete(app: Arc<App>, tenant: Tenant, uid: Uid, removal: TaskForBlob) -> Result<()> {
    match app.meta.delete_file(tenant, uid, removal).await? {
        Removed::Now => {
            app.task_enqueued_elsewhere();
            Ok(())
        }
        // Or its upload was given up: gone is gone.
        Removed::Before => Err(closed(FileState::Deleted)),
        Removed::Unknown => Err(unknown_uid()),
    }
}
