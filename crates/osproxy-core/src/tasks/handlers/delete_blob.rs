//! Deletes content that no file refers to.

use osproxy_meta::{BlobPayload, TaskKind};

use crate::tasks::{TaskContext, TaskError, TaskHandler};

/// Handler of the task `delete_blob`.
pub(super) struct DeleteBlob;

impl TaskHandler for DeleteBlob {
    const KIND: TaskKind = TaskKind::DeleteBlob;
    const CONCURRENCY: usize = 2;
    type Payload = BlobPayload;

    async fn run(&self, context: &TaskContext, payload: BlobPayload) -> Result<(), TaskError> {
        // If parts are still being written, their write guards remove them, and the next sweep
        // deletes the blob.
        context.app.objects.delete_blob(payload.blob_id).await?;
        Ok(())
    }
}
