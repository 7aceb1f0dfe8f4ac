//! Receives a body that is the whole content of a file.

use std::sync::Arc;

use osproxy_api::ErrorCode;
use osproxy_meta::{
    BeginUploadOutcome, Blob, FileState, ObjectRowKind, ReleasedReservation, StoreOutcome, StoredContent,
    StoredFile, WriteIntent,
};
use osproxy_storage::{Digests, Key, SizeHint};
use osproxy_types::{content_type, error_chain, uid::Uid};

use super::{
    receive::{Destination, Received, SizeLimit, WriteTarget, check_digests},
    upload_session::{BodyPlan, PendingWrite, select_digests},
};
use crate::{
    Error, Result,
    metrics::DedupSource,
    objects::{
        deduplicate::SameContent,
        write_guard::{ActiveWrite, WriteGuard},
    },
    ops::{
        UploadOps, UploadOptions, check_content_type, complete_upload::resume_completion,
        download_file::download_file, object_refusal_error, state_error, unknown_uid_error,
    },
};

/// Maximum attempts when concurrent requests store or remove the same content. After that, the
/// client must retry.
const MAX_TRIES: usize = 4;

/// A write of the whole content. The write intent is recorded.
pub(super) struct WholeWrite {
    guard: WriteGuard,
    intent: Box<WriteIntent>,
}

/// Records the intent to write the whole content of `uid`.
pub(super) async fn begin(uploads: &Arc<UploadOps>, uid: Uid) -> Result<PendingWrite> {
    for _ in 0..MAX_TRIES {
        let fallback_id = uploads.uids.next().await?;
        let task_id = uploads.uids.next().await?;
        match uploads.meta.uploads.begin(uid, fallback_id, task_id).await? {
            BeginUploadOutcome::Ready(intent) => {
                // Mark the write only now, when its blob id is known. The blob id is `uid` or
                // `fallback_id`. Marking `uid` in advance could keep the sweep from removing an
                // earlier, failed write with the blob id `uid`.
                let guard =
                    WriteGuard::new(ObjectRowKind::Blob, ActiveWrite::new(&uploads.objects, intent.blob_id));
                release(uploads, intent.released).await;
                return Ok(PendingWrite::Whole(WholeWrite { guard, intent }));
            }
            BeginUploadOutcome::Stored => {
                let file = uploads.meta.files.complete_uncached(uid).await?;
                let file = file.ok_or_else(|| state_error(FileState::Receiving))?;
                return Ok(PendingWrite::Compare(Comparison::new(uid, file)));
            }
            BeginUploadOutcome::Closed(FileState::Completing) => resume_completion(uploads, uid).await?,
            BeginUploadOutcome::Closed(state) => return Err(state_error(state)),
            BeginUploadOutcome::Unknown => return Err(unknown_uid_error()),
        }
    }
    Err(state_error(FileState::Completing))
}

/// Frees the disk space that was reserved for the parts of a file.
async fn release(uploads: &UploadOps, released: Option<ReleasedReservation>) {
    match released {
        None => {}
        Some(ReleasedReservation::OtherNode) => uploads.task_notifier.notify_cluster(),
        Some(ReleasedReservation::Local(blob_id)) => {
            // If this fails, the sweep frees the space later.
            if let Err(error) = uploads.objects.delete_blob(blob_id).await {
                tracing::warn!(
                    blob_id,
                    error = error_chain(&error),
                    "cannot release reserved disk space yet; the sweep retries"
                );
            }
        }
    }
}

impl WholeWrite {
    pub(super) fn plan(
        &self,
        uploads: &UploadOps,
        options: &UploadOptions,
        size: SizeHint,
    ) -> Result<BodyPlan<'_>> {
        let intent = &self.intent;
        let expected = options.expected.or(intent.expected);
        let max = uploads.limits.max_size.min(options.constraints.max_size.unwrap_or(u64::MAX));
        Ok(BodyPlan {
            tenant: &intent.tenant,
            is_charged: intent.size.is_some(),
            expected,
            destination: Destination {
                store: &intent.store,
                target: WriteTarget::Object(&intent.key),
                digests: select_digests(options, &expected),
                limit: SizeLimit { subject: "file", max },
                size: body_length(intent.size, size)?,
            },
        })
    }

    pub(super) fn check_content_type(&self, options: &UploadOptions, received: &Received) -> Result<()> {
        check_content_type(&options.constraints, received.sniffed, &self.intent.name)
    }

    /// Makes the received content the content of the file. If a blob with the same content exists,
    /// the file shares it; otherwise the received content is published.
    pub(super) async fn commit(self, uploads: Arc<UploadOps>, uid: Uid, received: Received) -> Result<()> {
        let _committing = uploads.metrics.commits.begin();
        let Self { mut guard, intent } = self;
        let Received { writer, digests, sniffed, buffers: _buffers } = received;
        let content_type = intent.content_type.clone();
        let content_type = content_type.unwrap_or_else(|| content_type::mime_type_of(sniffed, &intent.name));
        let tenant = || intent.tenant.clone();
        let mut unpublished = Some(writer);
        for _ in 0..MAX_TRIES {
            let outcome = match uploads.objects.find_same_content(&intent.tenant, &digests).await? {
                SameContent::Intact(same) => {
                    let own_id = unpublished.as_ref().map(|_| intent.blob_id);
                    let content_type = content_type.clone();
                    let shared = uploads
                        .meta
                        .uploads
                        .share_blob(uid, tenant(), same.id, digests, own_id, content_type)
                        .await?;
                    if shared == StoreOutcome::Stored && own_id.is_some() {
                        guard.disarm();
                        uploads.metrics.count_deduplicated(DedupSource::Upload, digests.size);
                        return Ok(());
                    }
                    shared
                }
                SameContent::Lost(lost) => {
                    guard.publish(&mut unpublished).await?;
                    match uploads.meta.blobs.repair(&lost, intent.blob_id).await? {
                        // The intent of this write now names the damaged object, which the write
                        // guard removes. The next attempt shares the repaired blob.
                        StoreOutcome::Stored => StoreOutcome::Conflict,
                        other => other,
                    }
                }
                SameContent::None => {
                    guard.publish(&mut unpublished).await?;
                    let content_type = content_type.clone();
                    let stored = uploads
                        .meta
                        .uploads
                        .finish(uid, tenant(), intent.blob_id, digests, sniffed, content_type)
                        .await?;
                    if stored == StoreOutcome::Stored {
                        guard.disarm();
                        return Ok(());
                    }
                    stored
                }
            };
            match outcome {
                StoreOutcome::Stored => return Ok(()),
                StoreOutcome::Conflict => {}
                StoreOutcome::OverQuota => return Err(Error::quota_exceeded()),
                StoreOutcome::Refused(refusal) => return Err(object_refusal_error(refusal)),
                StoreOutcome::Superseded => return compare_with_winner(&uploads, uid, &digests).await,
                StoreOutcome::Swept => {
                    // The sweep removed the row before the object was published, so the object must
                    // be deleted here.
                    uploads.stores.get(&intent.store)?.delete(std::slice::from_ref(&intent.key)).await?;
                    return Err(Error::unavailable(
                        "the upload took too long and was discarded; send the content again",
                    ));
                }
            }
        }
        Err(Error::unavailable("the same content is being stored and removed concurrently; retry"))
    }
}

/// Returns the announced length of the content. If no length was announced, returns `size`, the
/// length in the request. Fails with `SizeMismatch` if the two lengths differ.
pub(super) fn body_length(announced: Option<u64>, size: SizeHint) -> Result<SizeHint> {
    match (announced, size) {
        (Some(announced), SizeHint::Exact(size)) if size != announced => Err(Error::new(
            ErrorCode::SizeMismatch,
            format!("the content must have the announced {announced} bytes, not {size}"),
        )),
        (Some(announced), _) => Ok(SizeHint::Exact(announced)),
        (None, size) => Ok(size),
    }
}

/// Makes the known content of `blob` the content of `uid`, without a body. Continues if the future
/// is dropped.
pub(crate) async fn share_known_content(uploads: &Arc<UploadOps>, uid: Uid, blob: Blob) -> Result<()> {
    let sharing = uploads.detached_work.spawn(share(uploads.clone(), uid, blob));
    sharing.await.map_err(Error::internal)?
}

async fn share(uploads: Arc<UploadOps>, uid: Uid, blob: Blob) -> Result<()> {
    let WholeWrite { guard, intent } = match begin(&uploads, uid).await? {
        PendingWrite::Compare(comparison) => return comparison.finish(&blob.digests),
        PendingWrite::Whole(write) => write,
        PendingWrite::Part(_) => return Err(Error::internal("expected the whole content, found a part")),
    };
    let content_type = intent.content_type;
    let content_type = content_type
        .unwrap_or_else(|| content_type::mime_type_of(blob.detected_type.as_deref(), &intent.name));
    let (digests, own_id) = (blob.digests, Some(intent.blob_id));
    let shared = uploads.meta.uploads.share_blob(uid, intent.tenant, blob.id, digests, own_id, content_type);
    match shared.await? {
        StoreOutcome::Stored => {
            guard.disarm();
            uploads.metrics.count_deduplicated(DedupSource::Proof, blob.digests.size);
            Ok(())
        }
        StoreOutcome::Superseded => compare_with_winner(&uploads, uid, &blob.digests).await,
        StoreOutcome::OverQuota => Err(Error::quota_exceeded()),
        StoreOutcome::Refused(refusal) => Err(object_refusal_error(refusal)),
        StoreOutcome::Conflict | StoreOutcome::Swept => {
            let message = "the known content was removed meanwhile; send the content";
            Err(Error::new(ErrorCode::ChallengeGone, message))
        }
    }
}

/// A body for a file that is already complete. It is compared with the content of the file, then
/// removed.
pub(super) struct Comparison {
    stored: Arc<StoredFile>,
    key: Key,
}

impl Comparison {
    fn new(uid: Uid, stored: Arc<StoredFile>) -> Self {
        let key = Key::whole(stored.object_category(), uid.get(), stored.extension().as_deref());
        Self { stored, key }
    }

    /// Plans to write the body to an object that is never published: dropping the writer removes
    /// the written bytes. The body must not be larger than the file.
    pub(super) fn plan<'a>(
        &'a self,
        uploads: &'a UploadOps,
        options: &UploadOptions,
        size: SizeHint,
    ) -> Result<BodyPlan<'a>> {
        let content = &self.stored.content;
        let known = content.digests.ok_or_else(unverified_error)?;
        check_digests(&options.expected, &known).map_err(|_| already_stored_error())?;
        Ok(BodyPlan {
            tenant: &self.stored.tenant,
            is_charged: true,
            expected: options.expected,
            destination: Destination {
                store: uploads.stores.name_for_new(),
                target: WriteTarget::Object(&self.key),
                digests: options.expected.selection(),
                limit: SizeLimit { subject: "file", max: content.size },
                size,
            },
        })
    }

    /// Returns the error for a body that could not be received. A body that is larger than the file
    /// has different content.
    pub(super) fn explain_failure(error: Error) -> Error {
        if error.code == ErrorCode::TooLarge { already_stored_error() } else { error }
    }

    /// Fails with `AlreadyStored` unless the sent content is the content of the file.
    pub(super) fn finish(&self, sent: &Digests) -> Result<()> {
        check_same_content(&self.stored.content, sent)
    }
}

/// Compares the sent content with the content of the write that won.
async fn compare_with_winner(uploads: &Arc<UploadOps>, uid: Uid, sent: &Digests) -> Result<()> {
    resume_completion(uploads, uid).await?;
    let winner = download_file(&uploads.files, uid).await?;
    check_same_content(&winner.content, sent)
}

fn check_same_content(stored: &StoredContent, sent: &Digests) -> Result<()> {
    let known = stored.digests.ok_or_else(unverified_error)?;
    if known.blake3 == sent.blake3 { Ok(()) } else { Err(already_stored_error()) }
}

/// The error for a file that was sent in parts and whose digest is not computed yet, so that the
/// sent content cannot be compared with it.
fn unverified_error() -> Error {
    let message = "this file is already complete; the content cannot be compared until its digest is known";
    Error::new(ErrorCode::AlreadyStored, message)
}

fn already_stored_error() -> Error {
    Error::new(ErrorCode::AlreadyStored, "this file is already complete and has different content")
}
