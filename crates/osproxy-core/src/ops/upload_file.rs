//! Upload the whole content of a file in one request.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use osproxy_api::ErrorCode;
use osproxy_storage::{Digests, Key};
use osproxy_types::error_chain;

use crate::WorkKind;

pub use crate::SizeHint;
pub use osproxy_meta::ExpectedDigests;
pub use osproxy_storage::DigestSelection;

use super::{
    UploadOptions, check_content_type, check_quota, complete_upload, download_file::download_file,
    state_error, unknown_uid_error,
};
use crate::{
    ActiveWrite, App, Error, Received, Result, SizeLimit, WriteGuard, WriteTarget, buffered_bytes,
    check_digests, metrics::DedupSource, publish_once,
};
use osproxy_meta::{
    BeginUploadOutcome, Blob, FileState, ObjectRowKind, ReleasedReservation, StoreOutcome, StoredContent,
    StoredFile, WriteIntent,
};
use osproxy_types::{content_type, uid::Uid};

/// Maximum attempts when the same content appears or disappears concurrently, before the client
/// must retry.
const MAX_TRIES: usize = 4;

/// Stores `body` as the content of `uid` and returns when it is durable. The content must have the
/// expected digests, given here or when the upload was created, and meet the constraints of the
/// link.
///
/// Concurrent writes for one uid are allowed: the first to end wins, and the others succeed if they
/// sent the same content. A write that fails, breaks off or is dropped leaves nothing behind.
pub async fn upload_file(
    app: &Arc<App>,
    uid: Uid,
    UploadOptions { expected: claims, digests: wanted, constraints: terms }: UploadOptions,
    size: SizeHint,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    app.check_backpressure(WorkKind::Content)?;
    app.check_free_space(0).await?;
    let kept = if app.stores.needs_part_lengths() { buffered_bytes(size) } else { 0 };
    let mut transfer = app.transfers.admit(&terms, kept).await?;
    // Changes to the database are spawned, so that a client that disconnects does not cut them off.
    let beginning = app.background.spawn(begin_write(app.clone(), uid));
    match beginning.await.map_err(Error::internal)?? {
        StartedUpload::Ready(ready) => {
            let StartedWrite { guard: attempt, intent } = *ready;
            transfer.charge(&intent.tenant)?;
            let bound = SizeLimit {
                subject: "file",
                max: app.limits.max_size.min(terms.max_size.unwrap_or(u64::MAX)),
            };
            let claims = claims.or(intent.expected);
            let selection = DigestSelection { md5: wanted.md5 || claims.md5.is_some(), ..claims.selection() };
            if intent.size.is_none() {
                check_quota(app, &intent.tenant, size).await?;
            }
            let size = body_length(&intent, size)?;
            let target = WriteTarget::Object(&intent.key);
            let content = app.receive(&intent.store, target, selection, bound, size, body).await?;
            let content = Received { buffers: transfer.buffers(), ..content };
            check_digests(&claims, &content.digests)?;
            check_content_type(&terms, content.sniffed, &intent.name)?;
            let ending = app.background.spawn(commit(app.clone(), attempt, intent, uid, content));
            ending.await.map_err(Error::internal)?
        }
        StartedUpload::Stored(stored) => {
            transfer.charge(&stored.tenant)?;
            let known = stored.content.digests.ok_or_else(unverified_error)?;
            check_digests(&claims, &known).map_err(|_| already_stored_error())?;
            // The body is only compared: dropping the writer removes what it wrote, which is never
            // more than the file has.
            let key = Key::whole(stored.object_category(), uid.get(), stored.extension().as_deref());
            let bound = SizeLimit { subject: "file", max: stored.content.size };
            let content = app
                .receive(
                    app.stores.name_for_new(),
                    WriteTarget::Object(&key),
                    claims.selection(),
                    bound,
                    size,
                    body,
                )
                .await
                .map_err(|error| match error.code {
                    ErrorCode::TooLarge => already_stored_error(),
                    _ => error,
                })?;
            check_digests(&claims, &content.digests)?;
            check_same_content(&stored.content, &content.digests)
        }
    }
}

/// Returns the announced length of the content, or else what is known about it.
fn body_length(intent: &WriteIntent, size: SizeHint) -> Result<SizeHint> {
    match (intent.size, size) {
        (Some(announced), SizeHint::Exact(size)) if size != announced => Err(Error::new(
            ErrorCode::SizeMismatch,
            format!("the content must have the announced {announced} bytes, not {size}"),
        )),
        (Some(announced), _) => Ok(SizeHint::Exact(announced)),
        (None, size) => Ok(size),
    }
}

/// Makes known content the content of `uid`, after a proof of possession.
pub(super) async fn share_known(app: &Arc<App>, uid: Uid, blob: Blob) -> Result<()> {
    // Spawned, so that it is not cut off if the client disconnects.
    let sharing = app.background.spawn(share_stored(app.clone(), uid, blob));
    sharing.await.map_err(Error::internal)?
}

async fn share_stored(app: Arc<App>, uid: Uid, blob: Blob) -> Result<()> {
    let StartedWrite { guard: attempt, intent } = match begin_write(app.clone(), uid).await? {
        StartedUpload::Ready(ready) => *ready,
        StartedUpload::Stored(stored) => return check_same_content(&stored.content, &blob.digests),
    };
    let content_type = intent.content_type;
    let content_type = content_type
        .unwrap_or_else(|| content_type::mime_type_of(blob.detected_type.as_deref(), &intent.name));
    let (content, unpublished) = ((blob.id, blob.digests), Some(intent.blob_id));
    match app.meta.share_blob((uid, intent.tenant), content, unpublished, content_type).await? {
        StoreOutcome::Stored => {
            attempt.disarm();
            app.metrics.count_deduplicated(DedupSource::Proof, blob.digests.size);
            Ok(())
        }
        StoreOutcome::Superseded => {
            complete_upload::resume_completion(&app, uid).await?;
            let winner = download_file(&app, uid).await?;
            check_same_content(&winner.content, &blob.digests)
        }
        StoreOutcome::OverQuota => Err(Error::quota_exceeded()),
        StoreOutcome::Conflict | StoreOutcome::Swept => {
            let message = "the known content was removed meanwhile; send the content";
            Err(Error::new(ErrorCode::ChallengeGone, message))
        }
    }
}

struct StartedWrite {
    guard: WriteGuard,
    intent: WriteIntent,
}

enum StartedUpload {
    Ready(Box<StartedWrite>),
    Stored(Arc<StoredFile>),
}

async fn begin_write(app: Arc<App>, uid: Uid) -> Result<StartedUpload> {
    for _ in 0..MAX_TRIES {
        let fallback_id = app.next_uid().await?;
        let task_id = app.next_uid().await?;
        return match app.meta.begin_upload(uid, fallback_id, task_id).await? {
            BeginUploadOutcome::Ready(intent) => {
                // Not earlier: the uid's own id may belong to a failed write, which the sweep must
                // be able to remove.
                let attempt = WriteGuard::new(ObjectRowKind::Blob, ActiveWrite::new(&app, intent.blob_id));
                match intent.released {
                    None => {}
                    Some(ReleasedReservation::OtherNode) => app.notify_all_task_engines(),
                    Some(ReleasedReservation::Local(blob_id)) => {
                        // The sweep removes later what cannot be removed now.
                        if let Err(error) = app.delete_blob(blob_id).await {
                            tracing::warn!(
                                blob_id,
                                error = error_chain(&error),
                                "cannot release reserved disk space yet; the sweep retries"
                            );
                        }
                    }
                }
                Ok(StartedUpload::Ready(Box::new(StartedWrite { guard: attempt, intent: *intent })))
            }
            BeginUploadOutcome::Stored => Ok(StartedUpload::Stored(download_file(&app, uid).await?)),
            BeginUploadOutcome::Closed(FileState::Completing) => {
                complete_upload::resume_completion(&app, uid).await?;
                continue;
            }
            BeginUploadOutcome::Closed(state) => Err(state_error(state)),
            BeginUploadOutcome::Unknown => Err(unknown_uid_error()),
        };
    }
    Err(state_error(FileState::Completing))
}

/// Makes received content the content of the file: shares a blob with the same content if there is
/// one, and publishes it otherwise.
async fn commit(
    app: Arc<App>,
    mut guard: WriteGuard,
    intent: WriteIntent,
    uid: Uid,
    content: Received,
) -> Result<()> {
    let _ending = app.metrics.commits.begin();
    let Received { writer, digests, sniffed, buffers: _buffers } = content;
    let content_type = intent.content_type.clone();
    let content_type = content_type.unwrap_or_else(|| content_type::mime_type_of(sniffed, &intent.name));
    let intent_id = intent.blob_id;
    let named = || (uid, intent.tenant.clone());
    let mut unpublished = Some(writer);
    for _ in 0..MAX_TRIES {
        let same = app.meta.blob_by_blake3(&intent.tenant, digests.blake3).await?;
        let finished = match same {
            Some(same) if app.is_intact(&same).await? => {
                let intent = unpublished.as_ref().map(|_| intent_id);
                let shared =
                    app.meta.share_blob(named(), (same.id, digests), intent, content_type.clone()).await?;
                if shared == StoreOutcome::Stored && intent.is_some() {
                    guard.disarm();
                    app.metrics.count_deduplicated(DedupSource::Upload, digests.size);
                    return Ok(());
                }
                shared
            }
            Some(lost) => {
                tracing::error!(
                    blob_id = lost.id,
                    "the store has lost content; replacing it with the same content from this upload"
                );
                publish_once(&mut guard, &mut unpublished).await?;
                match app.meta.repair_blob(&lost, intent_id).await? {
                    // The row of this write now names the damaged object, which the write guard
                    // removes. The next round shares the repaired blob.
                    StoreOutcome::Stored => StoreOutcome::Conflict,
                    other => other,
                }
            }
            None => {
                publish_once(&mut guard, &mut unpublished).await?;
                let content_type = content_type.clone();
                let stored =
                    app.meta.finish_upload(named(), intent_id, digests, sniffed, content_type).await?;
                if stored == StoreOutcome::Stored {
                    guard.disarm();
                    return Ok(());
                }
                stored
            }
        };
        match finished {
            StoreOutcome::Stored => return Ok(()),
            StoreOutcome::Conflict => {}
            StoreOutcome::OverQuota => return Err(Error::quota_exceeded()),
            StoreOutcome::Superseded => {
                complete_upload::resume_completion(&app, uid).await?;
                let winner = download_file(&app, uid).await?;
                return check_same_content(&winner.content, &digests);
            }
            StoreOutcome::Swept => {
                // The object was published after its row was removed.
                app.stores.get(&intent.store)?.delete(std::slice::from_ref(&intent.key)).await?;
                return Err(Error::unavailable(
                    "the upload took too long and was discarded; send the content again",
                ));
            }
        }
    }
    Err(Error::unavailable("the same content is being stored and removed concurrently; retry"))
}

fn check_same_content(stored: &StoredContent, sent: &Digests) -> Result<()> {
    let known = stored.digests.ok_or_else(unverified_error)?;
    if known.blake3 == sent.blake3 { Ok(()) } else { Err(already_stored_error()) }
}

/// The error for content that was sent in parts and is not merged yet: without a digest of the
/// whole, it cannot be compared with what is sent now.
fn unverified_error() -> Error {
    let message = "this file is already complete; its digest is not computed yet, so it cannot be compared";
    Error::new(ErrorCode::AlreadyStored, message)
}

fn already_stored_error() -> Error {
    Error::new(ErrorCode::AlreadyStored, "this file is already complete and has different content")
}
