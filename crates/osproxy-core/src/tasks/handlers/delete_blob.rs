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
        // Write guards remove parts that are still being written, and the next sweep then removes
        // the row.
        context.app.objects.delete_blob(payload.blob_id).await?;
        Ok(())
    }
}
