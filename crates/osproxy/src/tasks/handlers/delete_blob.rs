//! Removes content that no file has any more.

use serde::{Deserialize, Serialize};

use crate::{
    app::App,
    meta::TaskForBlob,
    tasks::{self, TaskContext, TaskError, TaskHandler},
    uid::Uid,
};

/// The handler.
pub struct DeleteBlob;

/// What is to be removed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Payload {
    /// Number of a blob in state `deleting`.
    pub blob_id: i64,
}

impl TaskHandler for DeleteBlob {
    const KIND: &'static str = "delete_blob";
    const CONCURRENCY: usize = 2;
    type Payload = Payload;

    async fn run(&self, context: &TaskContext, payload: Payload) -> Result<(), TaskError> {
        // Parts that are being written at this moment go with those who write them, and the row with the next sweep.
        context.app.remove_blob(payload.blob_id).await?;
        Ok(())
    }
}

/// Gives the task that removes a blob, for transactions that condemn one. `id` is a number that nobody has.
pub fn removal(app: &App, id: Uid) -> TaskForBlob {
    tasks::task_for_blob::<DeleteBlob>(app, id, |blob_id| Payload { blob_id })
}
