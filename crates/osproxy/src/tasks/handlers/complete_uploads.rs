//! Goes on where a process died, or the store did not answer, while the store was to put an upload together.

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

/// How many uploads are looked at in one go.
const PAGE: u64 = 200;

/// How often parts that change while they are read are read again.
const ROUNDS: usize = 3;

/// The handler.
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
        // Who is at it at this moment is not disturbed: the store, and the row, take it twice.
        for (uid, native) in app.meta.completing(store, PAGE).await? {
            // One that cannot be completed must not keep the others.
            if let Err(error) = complete(app, uid, &native).await {
                let (uid, error) = (uid.to_string(), error::chain(&error));
                tracing::warn!(uid, error, "the store does not put this upload together yet");
            }
        }
        Ok(())
    }
}

/// Lets the store put its parts together, and makes that the file. `Closed`: the file is not being completed any more.
/// `Digest` and `Type`: it is corrupt now. Harmless when it is called again, or twice at the same time; after an error it
/// can be.
pub async fn complete(app: &Arc<App>, uid: Uid, native: &NativeUpload) -> Result<Completed> {
    if app.put_together(native).await? == PutTogether::Lost {
        return Ok(Completed::Closed(FileState::Receiving));
    }
    let after = AfterCompletion {
        verify: verify_blob::verification(app, app.next_uid().await?),
        merge: merge_parts::merging(app, app.next_uid().await?),
        removal: delete_blob::removal(app, app.next_uid().await?),
    };
    let mut conditions = Conditions { verify_up_to: app.limits.verify_up_to, ..Conditions::default() };
    for _ in 0..ROUNDS {
        let completed = app.meta.finish_completion(uid, native.blob_id, conditions.clone(), after.clone());
        match completed.await? {
            Completed::Inspect(inspection) => conditions.inspected = app.inspect(&inspection).await?,
            completed => {
                if let Completed::Digest(..) | Completed::Type { .. } = &completed {
                    tracing::warn!(%uid, "the content is not what was announced, or its links demand");
                }
                app.task_enqueued();
                return Ok(completed);
            }
        }
    }
    Err(Error::unavailable("the parts changed while they were read"))
}
