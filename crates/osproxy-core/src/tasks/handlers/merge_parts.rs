//! Merges the parts of a blob into one object, without disturbing readers.

use std::sync::Arc;

use futures_util::TryStreamExt;
use osproxy_meta::{
    BeginMergeOutcome, BlobPayload, ExpectedDigests, MergeIntent, MergeOutcome, ObjectRowKind, StoreOutcome,
    StoredPart, TaskKind,
};
use osproxy_storage::{DigestSelection, Digests, ObjectWriter, SizeHint};
use osproxy_types::error_chain;

use crate::{
    App, Result,
    metrics::DedupSource,
    objects::{
        deduplicate::SameContent,
        write_guard::{ActiveWrite, WriteGuard},
    },
    tasks::{TaskContext, TaskError, TaskHandler},
};

/// Maximum attempts when concurrent requests store or remove the same content. After that, the task
/// is retried.
const MAX_TRIES: usize = 4;

/// Handler of the task `merge_parts`.
pub(super) struct MergeParts;

impl TaskHandler for MergeParts {
    const KIND: TaskKind = TaskKind::MergeParts;
    const CONCURRENCY: usize = 2;
    type Payload = BlobPayload;

    async fn run(
        &self,
        context: &TaskContext,
        BlobPayload { blob_id }: BlobPayload,
    ) -> Result<(), TaskError> {
        let app = &context.app;
        let fallback_id = app.uids.next().await?.get();
        let writing = ActiveWrite::new(&app.objects, fallback_id);
        let store = match app.meta.blobs.begin_merge(blob_id, fallback_id).await? {
            BeginMergeOutcome::Ready(intent) => {
                let store = intent.store.clone();
                merge(app, blob_id, intent, WriteGuard::new(ObjectRowKind::Blob, writing)).await?;
                store
            }
            BeginMergeOutcome::AlreadyMerged(whole) => {
                // If the object was lost in the meantime, the parts are the only copy: keep them.
                if app.stores.get(&whole.store)?.size(&whole.key).await? != whole.size {
                    return Err(TaskError::fail("the merged object is damaged; its parts are kept"));
                }
                whole.store
            }
            BeginMergeOutcome::Gone => return Ok(()),
        };
        if app.meta.blobs.is_in_parts(blob_id).await? {
            // Its content was put into quarantine during the merge; a release enqueues another one.
            return Ok(());
        }
        // Readers that still need a part continue with the merged object.
        let parts = app.meta.blobs.part_objects(blob_id).await?;
        app.objects.delete_parts(&store, &parts).await?;
        Ok(app.meta.blobs.delete_gone_parts(Some(blob_id)).await?)
    }
}

async fn merge(
    app: &Arc<App>,
    blob_id: i64,
    intent: MergeIntent,
    guard: WriteGuard,
) -> Result<(), TaskError> {
    let mut writer = app.stores.get(&intent.store)?.create(&intent.key, SizeHint::Exact(intent.size)).await?;
    writer
        .select_digests(DigestSelection { sha256: intent.expected.sha256.is_some(), ..DigestSelection::MD5 });
    let parts = app.meta.blobs.parts(blob_id).await?;
    for part in &parts {
        append_part(app, &intent.store, &mut *writer, part).await?;
    }
    let digests = writer.finish().await?;
    if digests.size != intent.size {
        let (sum, size) = (digests.size, intent.size);
        return Err(TaskError::retry(format!("the parts add up to {sum} bytes, but the file has {size}")));
    }
    let mismatch = intent.expected.first_mismatch(&digests);
    if let Some((name, found)) = &mismatch {
        check_not_imported(&parts, name, found)?;
    }
    if mismatch.is_some() || intent.expected == ExpectedDigests::default() {
        // No expected digest confirms the merged bytes, so check that they are the bytes that
        // arrived.
        check_parts(app, &intent.store, &parts, &digests).await?;
    }
    if let Some((name, found)) = mismatch {
        return reject(app, blob_id, name, &found).await;
    }
    // Spawned: this must complete even if the task is dropped, because the row of an object that is
    // being published must stay.
    let settling =
        app.detached_work.spawn(commit_merge(app.clone(), blob_id, intent, guard, writer, digests));
    settling.await.map_err(TaskError::retry)?
}

/// Appends a part to an object that is being written. Both are in the same store.
async fn append_part(app: &App, store: &str, writer: &mut dyn ObjectWriter, part: &StoredPart) -> Result<()> {
    if writer.append_object(&part.key, part.range()).await? {
        return Ok(());
    }
    let mut bytes = app.stores.get(store)?.open(&part.key, part.range()).await?;
    while let Some(bytes) = bytes.try_next().await? {
        writer.write(bytes).await?;
    }
    Ok(())
}

/// Rejects content whose digest is not the expected one.
pub(super) async fn reject(app: &App, blob_id: i64, digest: &str, found: &str) -> Result<(), TaskError> {
    tracing::warn!(blob_id, digest, found, "the content does not have the expected digest");
    let task_id = app.uids.next().await?;
    let reason = format!("the {digest} of the content is {found}");
    app.meta.blobs.reject_content(blob_id, reason, task_id).await?;
    app.task_notifier.notify_node();
    Ok(())
}

/// Fails if the content was imported: imported content has no parts, or parts that osproxy has not
/// hashed. The program that stored the content may have served it already. An operator must
/// therefore decide what to do; a digest mismatch alone must not delete the content.
pub(super) fn check_not_imported(parts: &[StoredPart], digest: &str, found: &str) -> Result<(), TaskError> {
    if !parts.is_empty() && parts.iter().all(|part| part.digests.subtree.is_some()) {
        return Ok(());
    }
    Err(TaskError::fail(format!(
        "the imported content is damaged or its recorded digest is wrong: its {digest} is {found}"
    )))
}

/// Compares every part with the digests that were recorded when the part arrived, and all parts
/// together with the merged content. Fails if any of these differ. Thus damaged bytes never become
/// content, and never cause good bytes to be deleted.
pub(super) async fn check_parts(
    app: &App,
    store: &str,
    parts: &[StoredPart],
    merged: &Digests,
) -> Result<(), TaskError> {
    let (each, all) = app.stores.digest_parts(store, parts, DigestSelection::MD5).await?;
    for (part, digests) in parts.iter().zip(each) {
        if !part.digests.matches(&digests) {
            return Err(TaskError::fail(format!("part {} was damaged in the store", part.number)));
        }
    }
    if (all.size, all.blake3) != (merged.size, merged.blake3) {
        return Err(TaskError::retry("the merged content differs from the parts"));
    }
    Ok(())
}

/// Removes the object of the multipart upload. After the merge, the row of the intent names this
/// object.
async fn delete_multipart_object(app: &App, intent_id: i64) {
    // If this fails, the sweep removes the object later.
    if let Err(error) = app.objects.delete_unreferenced(ObjectRowKind::Blob, intent_id).await {
        let error = error_chain(&error);
        tracing::warn!(
            intent_id,
            error,
            "cannot remove the object of a multipart upload yet; the sweep retries"
        );
    }
}

/// Makes the merged content the content of the blob. If another blob has the same content, the
/// files of this blob refer to the other blob instead.
async fn commit_merge(
    app: Arc<App>,
    blob_id: i64,
    intent: MergeIntent,
    mut guard: WriteGuard,
    writer: Box<dyn ObjectWriter>,
    digests: Digests,
) -> Result<(), TaskError> {
    let mut unpublished = Some(writer);
    for _ in 0..MAX_TRIES {
        let merged = match app.objects.find_same_content(&intent.tenant, &digests).await? {
            SameContent::Intact(same) => {
                let task_id = app.uids.next().await?;
                let shared = app.meta.blobs.share_content(blob_id, same.id, digests, task_id).await?;
                app.task_notifier.notify_node();
                if shared == MergeOutcome::Stored {
                    if unpublished.is_some() {
                        app.metrics.count_deduplicated(DedupSource::Parts, digests.size);
                    }
                    // The merged object is not needed. Dropping the writer removes an unpublished
                    // object; dropping the write guard removes a published one.
                    return Ok(());
                }
                shared
            }
            SameContent::Lost(lost) => {
                guard.publish(&mut unpublished).await?;
                match app.meta.blobs.repair(&lost, intent.intent_id).await? {
                    // The row of the intent now names the damaged object, which the write guard
                    // removes. In the next attempt, the files share the repaired blob.
                    StoreOutcome::Stored
                    | StoreOutcome::Conflict
                    | StoreOutcome::Superseded
                    | StoreOutcome::Refused(_)
                    | StoreOutcome::OverQuota => MergeOutcome::Conflict,
                    StoreOutcome::Swept => MergeOutcome::Swept,
                }
            }
            SameContent::None => {
                guard.publish(&mut unpublished).await?;
                let merged = app.meta.blobs.finish_merge(blob_id, &intent, digests).await?;
                if merged == MergeOutcome::Stored {
                    guard.disarm();
                    if intent.has_multipart {
                        delete_multipart_object(&app, intent.intent_id).await;
                    }
                    return Ok(());
                }
                merged
            }
        };
        match merged {
            MergeOutcome::Stored | MergeOutcome::Superseded => return Ok(()),
            MergeOutcome::Conflict => {}
            MergeOutcome::Swept => {
                // The sweep removed the row before the object was published, so the object must be
                // deleted here.
                app.stores.get(&intent.store)?.delete(std::slice::from_ref(&intent.key)).await?;
                return Err(TaskError::retry(
                    "the merge took too long: the sweep removed its object before it was recorded",
                ));
            }
        }
    }
    Err(TaskError::retry("the same content is being stored and removed concurrently; retry"))
}
