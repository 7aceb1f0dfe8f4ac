//! Turns the parts of a blob into one object, behind the backs of those who read it.

use std::sync::Arc;

use osproxy_storage::{Digests, ObjectWriter, SizeHint, Wanted};
use serde::{Deserialize, Serialize};

use super::delete_blob;
use crate::{
    Result,
    app::{App, Attempt, Writing, publish},
    error,
    meta::{Claims, Finished, Kind, Merge, MergeIntent, Merged, StoredPart, TaskForBlob},
    metrics::Saving,
    tasks::{self, TaskContext, TaskError, TaskHandler},
    uid::Uid,
};

/// How often content that appears and disappears elsewhere is followed before the task is tried again.
const ROUNDS: usize = 4;

/// The handler.
pub struct MergeParts;

/// What is to be merged.
#[derive(Debug, Serialize, Deserialize)]
pub struct Payload {
    /// Number of a blob that lies in parts.
    pub blob_id: i64,
}

impl TaskHandler for MergeParts {
    const KIND: &'static str = "merge_parts";
    const CONCURRENCY: usize = 2;
    type Payload = Payload;

    async fn run(&self, context: &TaskContext, Payload { blob_id }: Payload) -> Result<(), TaskError> {
        let app = &context.app;
        let spare = app.next_uid().await?.get();
        let writing = Writing::new(app, spare);
        let store = match app.meta.begin_merge(blob_id, spare).await? {
            Merge::Ready(intent) => {
                let store = intent.store.clone();
                merge(app, blob_id, intent, Attempt::new(Kind::Blob, writing)).await?;
                store
            }
            Merge::Done(whole) => {
                // The parts are all there is of the bytes, if the object was lost meanwhile.
                if app.stores.get(&whole.store)?.size(&whole.key).await? != whole.size {
                    return Err(TaskError::fail("the merged object is damaged; its parts are kept"));
                }
                whole.store
            }
            Merge::Gone => return Ok(()),
        };
        // Readers that still want one of them follow to where the bytes are now.
        let parts = app.meta.part_objects(blob_id).await?;
        app.remove_parts(&store, &parts).await?;
        Ok(app.meta.forget_gone_parts(Some(blob_id)).await?)
    }
}

/// Gives the task that merges a blob, for the transaction that completes one. `id` is a number that nobody has.
pub fn merging(app: &App, id: Uid) -> TaskForBlob {
    tasks::task_for_blob::<MergeParts>(app, id, |blob_id| Payload { blob_id })
}

async fn merge(app: &Arc<App>, blob_id: i64, intent: MergeIntent, attempt: Attempt) -> Result<(), TaskError> {
    let mut writer = app.stores.get(&intent.store)?.create(&intent.key, SizeHint::Exact(intent.size)).await?;
    writer.want(Wanted { sha256: intent.claims.sha256.is_some(), ..Wanted::MD5 });
    let parts = app.meta.parts(blob_id).await?;
    for part in &parts {
        app.append_part(&intent.store, &mut *writer, part).await?;
    }
    let digests = writer.finish().await?;
    if digests.size != intent.size {
        return Err(TaskError::retry("the parts have not the size that the file has"));
    }
    let refuted = intent.claims.refuted_by(&digests);
    if let Some((name, found)) = &refuted {
        must_have_come_here(&parts, name, found)?;
    }
    if refuted.is_some() || intent.claims == Claims::default() {
        // Nobody has vouched for these bytes yet, or they are wrong: then it matters whether they are those that came.
        check_parts(app, &intent.store, &parts, &digests).await?;
    }
    if let Some((name, found)) = refuted {
        return reject(app, blob_id, name, &found).await;
    }
    // Brought to its end even if this task is given up: what is being published must not lose its row.
    let settling = app.background.spawn(settle(app.clone(), blob_id, intent, attempt, writer, digests));
    settling.await.map_err(TaskError::retry)?
}

/// Gives up content one of whose digests is another than the client had announced.
pub(super) async fn reject(app: &App, blob_id: i64, digest: &str, found: &str) -> Result<(), TaskError> {
    tracing::warn!(blob_id, digest, found, "the content is not what the client had announced");
    let removal = delete_blob::removal(app, app.next_uid().await?);
    app.meta.reject_content(blob_id, removal).await?;
    app.task_enqueued();
    Ok(())
}

/// Content that was taken over from another program has no parts, or such as osproxy has not digested. That program has compared it,
/// or served it for what it is: nothing of it is removed for a digest that is wrong, and somebody has to look at it.
pub(super) fn must_have_come_here(parts: &[StoredPart], digest: &str, found: &str) -> Result<(), TaskError> {
    if !parts.is_empty() && parts.iter().all(|part| part.known.piece.is_some()) {
        return Ok(());
    }
    Err(TaskError::fail(format!(
        "the content was damaged before it was taken over, or its digest was never right: its {digest} is {found}"
    )))
}

/// Compares every part with what it was when it came, and all of them with what was merged. Damage is never passed on as
/// content, and never makes bytes go that are still good.
pub(super) async fn check_parts(
    app: &App,
    store: &str,
    parts: &[StoredPart],
    merged: &Digests,
) -> Result<(), TaskError> {
    let (each, all) = app.stores.digest_parts(store, parts, Wanted::MD5).await?;
    for (part, digests) in parts.iter().zip(each) {
        if !part.known.is_of(&digests) {
            return Err(TaskError::fail(format!("part {} was damaged in the store", part.number)));
        }
    }
    if (all.size, all.blake3) != (merged.size, merged.blake3) {
        return Err(TaskError::retry("what was merged is not what the parts are"));
    }
    Ok(())
}

/// Removes what the store had put together of the parts, which an intent names now.
async fn remove_put_together(app: &App, intent_id: i64) {
    // What this cannot remove now, the sweep does later.
    if let Err(error) = app.discard(Kind::Blob, intent_id).await {
        let error = error::chain(&error);
        tracing::warn!(intent_id, error, "cannot remove what the store had put together yet");
    }
}

/// Makes merged content the blob's, or lets its files share a blob that has the same content already.
async fn settle(
    app: Arc<App>,
    blob_id: i64,
    intent: MergeIntent,
    mut attempt: Attempt,
    writer: Box<dyn ObjectWriter>,
    digests: Digests,
) -> Result<(), TaskError> {
    let mut unpublished = Some(writer);
    for _ in 0..ROUNDS {
        let merged = match app.meta.blob_by_blake3(&intent.tenant, digests.blake3).await? {
            Some(same) if app.is_intact(&same).await? => {
                let removal = delete_blob::removal(&app, app.next_uid().await?);
                let shared = app.meta.share_content(blob_id, same.id, digests, removal).await?;
                app.task_enqueued();
                if shared == Merged::Stored {
                    if unpublished.is_some() {
                        app.metrics.shared(Saving::Parts, digests.size);
                    }
                    // What was written is dropped with the writer or by the attempt; it is not needed.
                    return Ok(());
                }
                shared
            }
            Some(lost) => {
                let id = lost.id;
                tracing::error!(
                    blob_id = id,
                    "content was lost from the store; mending it with what was sent"
                );
                publish(&mut attempt, &mut unpublished).await?;
                match app.meta.mend_blob(&lost, intent.intent_id).await? {
                    // The attempt's row now names what was damaged, which is removed at its end. The files share what
                    // was mended in the next round.
                    Finished::Stored | Finished::Changed | Finished::Beaten | Finished::OverQuota => {
                        Merged::Changed
                    }
                    Finished::Swept => Merged::Swept,
                }
            }
            None => {
                publish(&mut attempt, &mut unpublished).await?;
                let merged = app.meta.finish_merge(blob_id, &intent, digests).await?;
                if merged == Merged::Stored {
                    attempt.settle();
                    if intent.has_native {
                        remove_put_together(&app, intent.intent_id).await;
                    }
                    return Ok(());
                }
                merged
            }
        };
        match merged {
            Merged::Stored | Merged::Beaten => return Ok(()),
            Merged::Changed => {}
            Merged::Swept => {
                // What was published meanwhile has no row any more.
                app.stores.get(&intent.store)?.delete(std::slice::from_ref(&intent.key)).await?;
                return Err(TaskError::retry("the merge was swept away while it was finishing"));
            }
        }
    }
    Err(TaskError::retry("content that is the same came and went too often"))
}
