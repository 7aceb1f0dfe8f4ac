//! Verifies blobs whose object was made by a multipart upload: aborts duplicates of that upload,
//! computes the digests unless they are known, then rejects the content or records the digests. Once
//! the digests are recorded, instant uploads can share the content.

use std::sync::Arc;

use osproxy_meta::{BlobPayload, ExpectedDigests, MergeOutcome, TaskKind, UnverifiedBlob};
use osproxy_storage::{DigestSelection, Digests, Key, Multipart};
use osproxy_types::tenant::Tenant;

use super::merge_parts::{check_not_imported, check_parts, reject};
use crate::{
    App,
    metrics::DedupSource,
    objects::deduplicate::SameContent,
    tasks::{TaskContext, TaskError, TaskHandler},
};

/// Maximum attempts when concurrent requests store or remove the same content. After that, the task
/// is retried.
const MAX_TRIES: usize = 4;

/// Handler of the task `verify_blob`.
pub(super) struct VerifyBlob;

impl TaskHandler for VerifyBlob {
    const KIND: TaskKind = TaskKind::VerifyBlob;
    const CONCURRENCY: usize = 2;
    type Payload = BlobPayload;

    async fn run(
        &self,
        context: &TaskContext,
        BlobPayload { blob_id }: BlobPayload,
    ) -> Result<(), TaskError> {
        let app = &context.app;
        // A node that started the multipart upload may have crashed before it recorded the id or
        // aborted a duplicate.
        if let Some(blob) = app.meta.blobs.unverified(blob_id).await? {
            app.objects.abort_multipart_uploads(&blob.store, &blob.key, blob.slot_size).await?;
            verify(app, blob_id, &blob).await?;
        } else if let Some(blob) = app.meta.blobs.whole(blob_id).await?
            && !app.stores.multipart(&blob.store).is_ok_and(Multipart::is_preallocated)
        {
            app.objects.abort_multipart_uploads(&blob.store, &blob.key, None).await?;
        }
        remove_parts(app, blob_id).await?;
        Ok(app.meta.blobs.delete_gone_parts(Some(blob_id)).await?)
    }
}

/// Removes the parts of a blob in one object. Parts of a multipart upload have only rows. Others have
/// objects: they are left if the content came into quarantine before its merge could remove them.
async fn remove_parts(app: &App, blob_id: i64) -> Result<(), TaskError> {
    let Some(whole) = app.meta.blobs.whole(blob_id).await? else {
        // It is in quarantine, and verified again when it is released; or it is being deleted.
        return Ok(());
    };
    let parts = app.meta.blobs.part_objects(blob_id).await?;
    if parts.iter().all(|(_, key)| key.is_none()) {
        return Ok(app.meta.blobs.delete_part_rows(parts.into_iter().map(|(id, _)| id).collect()).await?);
    }
    // If the object was lost in the meantime, the parts are the only copy: keep them.
    if app.stores.get(&whole.store)?.size(&whole.key).await? != whole.size {
        return Err(TaskError::fail("the merged object is damaged; its parts are kept"));
    }
    Ok(app.objects.delete_parts(&whole.store, &parts).await?)
}

async fn verify(app: &Arc<App>, blob_id: i64, blob: &UnverifiedBlob) -> Result<(), TaskError> {
    let UnverifiedBlob { tenant, store, key, size, slot_size: _, expected: claims } = blob;
    let combined = app.meta.blobs.combined_blake3(blob_id).await?;
    let digests = match combined {
        // Every part was hashed when it arrived, and no other digest is expected.
        Some(blake3) if !claims.need_full_read() => Digests { size: *size, md5: None, sha256: None, blake3 },
        // No digest of the whole content is expected, but the digests of its parts are recorded.
        None if *claims == ExpectedDigests::default() => {
            digest_unclaimed(app, blob_id, store, key, *size).await?
        }
        _ => {
            let digests = app.stores.digest(store, key, 0..*size, claims.selection()).await?;
            let mismatch = claims.first_mismatch(&digests);
            if mismatch.is_some() || combined.is_some_and(|combined| combined != digests.blake3) {
                let parts = app.meta.blobs.parts(blob_id).await?;
                if let Some((name, found)) = &mismatch {
                    check_not_imported(&parts, name, found)?;
                }
                check_parts(app, store, &parts, &digests).await?;
            }
            if let Some((name, found)) = mismatch {
                return reject(app, blob_id, name, &found).await;
            }
            digests
        }
    };
    record_digests(app, tenant, blob_id, digests).await
}

async fn digest_unclaimed(
    app: &App,
    blob_id: i64,
    store: &str,
    key: &Key,
    size: u64,
) -> Result<Digests, TaskError> {
    let parts = app.meta.blobs.parts(blob_id).await?;
    if parts.is_empty() {
        // Content that was in quarantine has lost its digests, and may never have had parts.
        return Ok(app.stores.digest(store, key, 0..size, DigestSelection::MD5).await?);
    }
    let (each, all) = app.stores.digest_parts(store, &parts, DigestSelection::MD5).await?;
    if all.size != size {
        return Err(TaskError::retry(format!("the parts of {key} do not add up to the size of the object")));
    }
    match parts.iter().zip(each).find(|(part, digests)| !part.digests.matches(digests)) {
        Some((part, _)) => Err(TaskError::fail(format!("part {} was damaged in the store", part.number))),
        None => Ok(all),
    }
}

/// Records the digests of a blob. If another blob has the same content, the files of both blobs
/// share one of the two blobs.
async fn record_digests(
    app: &Arc<App>,
    tenant: &Tenant,
    blob_id: i64,
    digests: Digests,
) -> Result<(), TaskError> {
    for _ in 0..MAX_TRIES {
        let task_id = app.uids.next().await?;
        let settled = match app.objects.find_same_content(tenant, &digests).await? {
            SameContent::Intact(same) => {
                let shared = app.meta.blobs.share_content(blob_id, same.id, digests, task_id).await?;
                if shared == MergeOutcome::Stored {
                    app.metrics.count_deduplicated(DedupSource::Parts, digests.size);
                }
                shared
            }
            SameContent::Lost(lost) => match app.meta.blobs.replace_lost(lost.id, blob_id, task_id).await? {
                MergeOutcome::Stored => MergeOutcome::Conflict,
                other => other,
            },
            SameContent::None => app.meta.blobs.finish_verification(blob_id, digests).await?,
        };
        app.task_notifier.notify_node();
        if settled != MergeOutcome::Conflict {
            return Ok(());
        }
    }
    Err(TaskError::retry("the same content is being stored and removed concurrently; retry"))
}
