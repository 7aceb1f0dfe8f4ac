//! Remove a file.

use std::sync::Arc;

use super::unknown_uid;
use crate::{Result, app::App, meta::Removed, tasks::handlers::delete_blob, uid::Uid};

/// Removes a file, whether it is complete or still arriving. Nobody can read it when this returns. Its content goes
/// too, by a task, unless another file shares it. Harmless when it is called again.
pub async fn delete_file(app: &Arc<App>, uid: Uid) -> Result<()> {
    let removal = delete_blob::removal(app, app.next_uid().await?);
    match app.meta.delete_file(uid, removal).await? {
        Removed::Now => {
            app.task_enqueued.notify_one();
            Ok(())
        }
        Removed::Before => Ok(()),
        Removed::Unknown => Err(unknown_uid()),
    }
}
