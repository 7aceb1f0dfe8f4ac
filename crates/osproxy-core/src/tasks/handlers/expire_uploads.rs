//! Expires uploads that were not completed in time, and deletes their parts.

use std::time::Duration;

use osproxy_meta::{DeleteOutcome, TaskKind};

use crate::tasks::{TaskContext, TaskError, TaskHandler};

/// Maximum number of uploads to read in one query.
const PAGE: u64 = 200;

/// Handler of the task `expire_uploads`.
pub(super) struct ExpireUploads;

impl TaskHandler for ExpireUploads {
    const KIND: TaskKind = TaskKind::ExpireUploads;
    const INTERVAL: Option<Duration> = Some(Duration::from_mins(1));
    type Payload = ();

    async fn run(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        let app = &context.app;
        // Use the clock of the database: if the clock of a node is ahead, that node must not expire
        // the uploads of all nodes too early.
        let expired_before = app.meta.now_ms().saturating_sub(app.limits.expired_retention_ms);
        let mut expired = 0_u64;
        loop {
            let expired_uploads = app.meta.uploads.expired(expired_before, PAGE).await?;
            if expired_uploads.is_empty() {
                break;
            }
            for uid in expired_uploads {
                let task_id = app.uids.next().await?;
                let outcome = app.meta.uploads.expire(uid, expired_before, task_id).await?;
                expired += u64::from(outcome == DeleteOutcome::Deleted);
            }
            app.task_notifier.notify_cluster();
        }
        if expired > 0 {
            tracing::info!(expired, "expired uploads that were not completed in time");
        }
        Ok(())
    }
}
