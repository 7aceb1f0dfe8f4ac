//! Resumes the completion of multipart uploads after a crash or an outage of the store.

use std::{sync::Arc, time::Duration};

use super::{delete_blob, merge_parts, verify_blob};
use crate::{
    Error, Result,
    app::{App, PutTogether},
    error,
    meta::{AfterCompletion, Completed, Conditions, FileState, NativeUpload},
    tasks::{TaskContext, TaskError, TaskHandler},
    uid::Uid,
};

/// How many uploads to complete in one run.
const PAGE: u64 = 200;

/// How often to read parts again that change while they are read.
const ROUNDS: usize = 3;

/// Handler of the task `complete_uploads`.
pub struct CompleteUploads;

impl TaskHandler for CompleteUploads {
    const KIND: &'static str = "complete_uploads";
    const EVERY: Option<Duration> = Some(Duration::from_mins(1));
    const FOR_STORE: bool = true;
    type Payload = ();

    async fn run(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        let app = &context.app;
        let Some(store) = context.store.as_ref().filter(|store| app.stores.multipart(store).is_ok()) else {
            return Ok(());
        };
        // Concurrent completions do no harm: the store and the row accept repetitions.
        for (uid, native) in app.meta.completing(store, PAGE).await? {
            // If one upload cannot be completed, the others still can.
            if let Err(error) = complete(app, uid, &native).await {
                let (uid, error) = (uid.to_string(), error::chain(&error));
                tracing::warn!(uid, error, "cannot complete the multipart upload yet");
            }
        }
        Ok(())
    }
}

/// Completes the multipart upload in the store, then the file. Returns `Closed` if the file is not
/// being completed any more, and `Digest` or `Type` if the file is now corrupt. Can be repeated,
/// also concurrently and after an error.
pub async fn complete(app: &Arc<App>, uid: Uid, upload: &NativeUpload) -> Result<Completed> {
    if app.put_together(upload).await? == PutTogether::PartsLost {
        return Ok(Completed::NotOpen(FileState::Receiving));
    }
    let after = AfterCompletion {
        verify: verify_blob::verification(app, app.next_uid().await?),
        merge: merge_parts::merging(app, app.next_uid().await?),
        removal: delete_blob::removal(app, app.next_uid().await?),
    };
    let mut conditions = Conditions { verify_up_to: app.limits.verify_up_to, ..Conditions::default() };
    for _ in 0..ROUNDS {
        let completed = app.meta.finish_completion(uid, upload.blob_id, conditions.clone(), after.clone());
        match completed.await? {
            Completed::NeedsInspection(inspection) => conditions.inspected = app.inspect(&inspection).await?,
            completed => {
                if let Completed::DigestMismatch(..) | Completed::TypeMismatch { .. } = &completed {
                    tracing::warn!(%uid, "the content does not have the expected digests or type");
                }
                app.task_enqueued();
                return Ok(completed);
            }
        }
    }
    Err(Error::unavailable("the parts changed while they were read"))
}
