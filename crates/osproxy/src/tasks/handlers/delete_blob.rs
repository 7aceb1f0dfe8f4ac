//! Deletes content that no file refers to.

use osproxy_types::uid::Uid;
use serde::{Deserialize, Serialize};

use crate::{
    app::App,
    meta::TaskForBlob,
    tasks::{self, TaskContext, TaskError, TaskHandler},
};

/// Handler of the task `delete_blob`.
pub struct DeleteBlob;

/// The blob to delete.
#[derive(Debug, Serialize, Deserialize)]
pub struct Payload {
    /// Id of a blob in state `deleting`.
    pub blob_id: i64,
}

impl TaskHandler for DeleteBlob {
    const KIND: &'static str = "delete_blob";
    const CONCURRENCY: usize = 2;
    type Payload = Payload;

    async fn run(&self, context: &TaskContext, payload: Payload) -> Result<(), TaskError> {
        // Write guards remove parts that are still being written, and the next sweep then removes
        // the row.
        context.app.delete_blob(payload.blob_id).await?;
        Ok(())
    }
}

/// Returns the task that deletes a blob, for a transaction that marks one for deletion. `id` must
/// be unused.
pub fn delete_task(app: &App, id: Uid) -> TaskForBlob {
    tasks::task_for_blob::<DeleteBlob>(app, id, |blob_id| Payload { blob_id })
}
