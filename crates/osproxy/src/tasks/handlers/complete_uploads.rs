//! Resumes the completion of multipart uploads after a crash or an outage of the store.

use std::{sync::Arc, time::Duration};

use osproxy_types::{error_chain, uid::Uid};

use crate::{
    Error, Result,
    app::{App, MultipartOutcome},
    meta::{CompleteOutcome, CompletePreconditions, FileState, MultipartUpload, TaskKind},
    tasks::{TaskContext, TaskError, TaskHandler},
};

/// How many uploads to complete in one run.
const PAGE: u64 = 200;

/// Maximum attempts to read parts that change while they are read.
const MAX_TRIES: usize = 3;

/// Handler of the task `complete_uploads`.
pub struct CompleteUploads;

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
        // Concurrent completions do no harm: completing is idempotent in the store and in the row.
        for (uid, native) in app.meta.completing_uploads(store, PAGE).await? {
            // If one upload cannot be completed, the others still can.
            if let Err(error) = complete_multipart_upload(app, uid, &native).await {
                let (uid, error) = (uid.to_string(), error_chain(&error));
                tracing::warn!(uid, error, "cannot complete the multipart upload yet");
            }
        }
        Ok(())
    }
}

/// Completes the multipart upload in the store, then the file. Returns `NotOpen` if the file is no
/// longer being completed, and `DigestMismatch` or `TypeMismatch` if the file is now corrupt.
/// Idempotent: may run again after an error, or concurrently.
pub async fn complete_multipart_upload(
    app: &Arc<App>,
    uid: Uid,
    upload: &MultipartUpload,
) -> Result<CompleteOutcome> {
    if app.complete_multipart(upload).await? == MultipartOutcome::PartsLost {
        return Ok(CompleteOutcome::NotOpen(FileState::Receiving));
    }
    let task_id = app.next_uid().await?;
    let mut conditions =
        CompletePreconditions { verify_up_to: app.limits.verify_up_to, ..CompletePreconditions::default() };
    for _ in 0..MAX_TRIES {
        let completed = app.meta.finish_multipart(uid, upload.blob_id, conditions.clone(), task_id);
        match completed.await? {
            CompleteOutcome::NeedsInspection(inspection) => {
                conditions.inspected = app.inspect(&inspection).await?;
            }
            completed => {
                if let CompleteOutcome::DigestMismatch(..) | CompleteOutcome::TypeMismatch { .. } = &completed
                {
                    tracing::warn!(%uid, "the content does not have the expected digests or type");
                }
                app.notify_task_engine();
                return Ok(completed);
            }
        }
    }
    Err(Error::unavailable("the parts changed during completion; retry"))
}
