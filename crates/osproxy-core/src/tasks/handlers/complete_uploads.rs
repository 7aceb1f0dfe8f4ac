//! Resumes the completion of multipart uploads after a crash or an outage of the store.

use std::time::Duration;

use osproxy_meta::TaskKind;
use osproxy_types::error_chain;

use crate::tasks::{TaskContext, TaskError, TaskHandler};

/// Maximum number of uploads to complete in one run.
const PAGE: u64 = 200;

/// Handler of the task `complete_uploads`.
pub(super) struct CompleteUploads;

impl TaskHandler for CompleteUploads {
    const KIND: TaskKind = TaskKind::CompleteUploads;
    const INTERVAL: Option<Duration> = Some(Duration::from_mins(1));
    const PER_STORE: bool = true;
    type Payload = ();

    async fn run(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        let app = &context.app;
        let Some(store) = context.store.as_ref().filter(|store| app.stores.multipart(store).is_ok()) else {
            return Ok(());
        };
        // A request may complete the same upload concurrently. That does no harm, because
        // completion is idempotent.
        for (uid, native) in app.meta.uploads.completing(store, PAGE).await? {
            // If this fails, continue with the other uploads: completing them may succeed.
            if let Err(error) = app.objects.finish_completion(uid, &native, None).await {
                let (uid, error) = (uid.to_string(), error_chain(&error));
                tracing::warn!(uid, error, "cannot complete the multipart upload yet");
            }
        }
        Ok(())
    }
}
