//! Upload the whole content of a file in one request.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use osproxy_api::ErrorCode;
use osproxy_storage::{Digests, Key};

pub use crate::{app::SizeHint, meta::Claims};
pub use osproxy_storage::Wanted;

use super::{
    Said, check_quota, check_type, closed, complete_upload, download_file::download_file, unknown_uid,
};
use crate::{
    Error, Result,
    app::{self, App, Attempt, Bound, Received, Target, Writing, check_claims, kept, publish},
    content_type, error,
    meta::{Begun, Blob, Content, FileState, Finished, Intent, Kind, Released, StoredFile},
    metrics::Saving,
    tasks::handlers::delete_blob,
    uid::Uid,
};

/// How often to look again when the same content appears or disappears concurrently, before the
/// client must retry.
const ROUNDS: usize = 4;

/// Stores `body` as the content of `uid` and returns when it is durable. The content must have the
/// expected digests, given here or when the upload was created, and meet the constraints of the
/// link.
///
/// Concurrent writes for one uid are allowed: the first to end wins, and the others succeed if they
/// sent the same content. A write that fails, breaks off or is dropped leaves nothing behind.
pub async fn upload_file(
    app: &Arc<App>,
    uid: Uid,
    Said { expected: claims, digests: wanted, constraints: terms }: Said,
    size: SizeHint,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    app.must_keep_up(app::Beginning::Content)?;
    app.must_leave_free(0).await?;
    let kept = if app.stores.put_any_parts_together() { kept(size) } else { 0 };
    let mut transfer = app.transfers.begin(&terms, kept).await?;
    // Changes to the database are spawned, so that a client that disconnects does not cut them off.
    let beginning = app.background.spawn(begin(app.clone(), uid));
    match beginning.await.map_err(Error::internal)?? {
        Beginning::Ready(ready) => {
            let Ready { guard: attempt, intent } = *ready;
            transfer.of(&intent.tenant)?;
            let bound =
                Bound { subject: "file", max: app.limits.max_size.min(terms.max_size.unwrap_or(u64::MAX)) };
            let claims = claims.or(intent.expected);
            let selection = Wanted { md5: wanted.md5 || claims.md5.is_some(), ..claims.wanted() };
            if intent.size.is_none() {
                check_quota(app, &intent.tenant, size).await?;
            }
            let size = announced(&intent, size)?;
            let target = Target::Object(&intent.key);
            let content = app.receive(&intent.store, target, selection, bound, size, body).await?;
            let content = Received { buffers: transfer.buffers(), ..content };
            check_claims(&claims, &content.digests)?;
            check_type(&terms, content.sniffed, &intent.name)?;
            let ending = app.background.spawn(store(app.clone(), attempt, intent, uid, content));
            ending.await.map_err(Error::internal)?
        }
        Beginning::Stored(stored) => {
            transfer.of(&stored.tenant)?;
            let known = stored.content.digests.ok_or_else(unverified)?;
            check_claims(&claims, &known).map_err(|_| already_stored())?;
            // The body is only compared: dropping the writer removes what it wrote, which is never
            // more than the file has.
            let key = Key::whole(stored.object_category(), uid.get(), stored.extension().as_deref());
            let bound = Bound { subject: "file", max: stored.content.size };
            let content = app
                .receive(app.stores.for_new(), Target::Object(&key), claims.wanted(), bound, size, body)
                .await
                .map_err(|error| match error.code {
                    ErrorCode::TooLarge => already_stored(),
                    _ => error,
                })?;
            check_claims(&claims, &content.digests)?;
            must_equal(&stored.content, &content.digests)
        }
    }
}

/// Returns the announced length of the content, or else what is known about it.
fn announced(intent: &Intent, size: SizeHint) -> Result<SizeHint> {
    match (intent.size, size) {
        (Some(announced), SizeHint::Exact(size)) if size != announced => Err(Error::new(
            ErrorCode::SizeMismatch,
            format!("the content must have the announced {announced} bytes, not {size}"),
        )),
        (Some(announced), _) => Ok(SizeHint::Exact(announced)),
        (None, size) => Ok(size),
    }
}

/// Makes known content, after a proof of possession, the content of `uid`.
pub(super) async fn share(app: &Arc<App>, uid: Uid, blob: Blob) -> Result<()> {
    // Spawned, so that it is not cut off if the client disconnects.
    let sharing = app.background.spawn(share_stored(app.clone(), uid, blob));
    sharing.await.map_err(Error::internal)?
}

async fn share_stored(app: Arc<App>, uid: Uid, blob: Blob) -> Result<()> {
    let Ready { guard: attempt, intent } = match begin(app.clone(), uid).await? {
        Beginning::Ready(ready) => *ready,
        Beginning::Stored(stored) => return must_equal(&stored.content, &blob.digests),
    };
    let content_type = intent.content_type;
    let content_type =
        content_type.unwrap_or_else(|| content_type::of_file(blob.detected_type.as_deref(), &intent.name));
    let (content, unpublished) = ((blob.id, blob.digests), Some(intent.blob_id));
    match app.meta.share_blob((uid, intent.tenant), content, unpublished, content_type).await? {
        Finished::Stored => {
            attempt.settle();
            app.metrics.shared(Saving::Proof, blob.digests.size);
            Ok(())
        }
        Finished::Superseded => {
            complete_upload::go_on(&app, uid).await?;
            let winner = download_file(&app, uid).await?;
            must_equal(&winner.content, &blob.digests)
        }
        Finished::OverQuota => Err(Error::over_quota()),
        Finished::Conflict | Finished::Swept => {
            let message = "the known content was removed meanwhile; send the content";
            Err(Error::new(ErrorCode::ChallengeGone, message))
        }
    }
}

struct Ready {
    guard: Attempt,
    intent: Intent,
}

enum Beginning {
    Ready(Box<Ready>),
    Stored(Arc<StoredFile>),
}

async fn begin(app: Arc<App>, uid: Uid) -> Result<Beginning> {
    for _ in 0..ROUNDS {
        let fallback_id = app.next_uid().await?;
        let removal = delete_blob::removal(&app, app.next_uid().await?);
        return match app.meta.begin_upload(uid, fallback_id, removal).await? {
            Begun::Ready(intent) => {
                // Not before: the id of the uid itself may belong to a write that died, which the
                // sweep must remove.
                let attempt = Attempt::new(Kind::Blob, Writing::new(&app, intent.blob_id));
                match intent.released {
                    None => {}
                    Some(Released::OtherNode) => app.task_enqueued_elsewhere(),
                    Some(Released::Local(blob_id)) => {
                        // The sweep removes later what cannot be removed now.
                        if let Err(error) = app.remove_blob(blob_id).await {
                            tracing::warn!(
                                blob_id,
                                error = error::chain(&error),
                                "cannot release reserved disk space yet; the sweep retries"
                            );
                        }
                    }
                }
                Ok(Beginning::Ready(Box::new(Ready { guard: attempt, intent: *intent })))
            }
            Begun::Stored => Ok(Beginning::Stored(download_file(&app, uid).await?)),
            Begun::Closed(FileState::Completing) => {
                complete_upload::go_on(&app, uid).await?;
                continue;
            }
            Begun::Closed(state) => Err(closed(state)),
            Begun::Unknown => Err(unknown_uid()),
        };
    }
    Err(closed(FileState::Completing))
}

/// Makes received content the content of the file: shares a blob with the same content if there is
/// one, and publishes it otherwise.
async fn store(app: Arc<App>, mut guard: Attempt, intent: Intent, uid: Uid, content: Received) -> Result<()> {
    let _ending = app.metrics.commits.begin();
    let Received { writer, digests, sniffed, buffers: _buffers } = content;
    let content_type = intent.content_type.clone();
    let content_type = content_type.unwrap_or_else(|| content_type::of_file(sniffed, &intent.name));
    let intent_id = intent.blob_id;
    let named = || (uid, intent.tenant.clone());
    let mut unpublished = Some(writer);
    for _ in 0..ROUNDS {
        let same = app.meta.blob_by_blake3(&intent.tenant, digests.blake3).await?;
        let finished = match same {
            Some(same) if app.is_intact(&same).await? => {
                let intent = unpublished.as_ref().map(|_| intent_id);
                let shared =
                    app.meta.share_blob(named(), (same.id, digests), intent, content_type.clone()).await?;
                if shared == Finished::Stored && intent.is_some() {
                    guard.settle();
                    app.metrics.shared(Saving::Upload, digests.size);
                    return Ok(());
                }
                shared
            }
            Some(lost) => {
                tracing::error!(
                    blob_id = lost.id,
                    "the store has lost content; replacing it with the same content from this upload"
                );
                publish(&mut guard, &mut unpublished).await?;
                match app.meta.mend_blob(&lost, intent_id).await? {
                    // The row of this write now names the damaged object, which the write guard
                    // removes. The next round shares the repaired blob.
                    Finished::Stored => Finished::Conflict,
                    other => other,
                }
            }
            None => {
                publish(&mut guard, &mut unpublished).await?;
                let content_type = content_type.clone();
                let stored =
                    app.meta.finish_upload(named(), intent_id, digests, sniffed, content_type).await?;
                if stored == Finished::Stored {
                    guard.settle();
                    return Ok(());
                }
                stored
            }
        };
        match finished {
            Finished::Stored => return Ok(()),
            Finished::Conflict => {}
            Finished::OverQuota => return Err(Error::over_quota()),
            Finished::Superseded => {
                complete_upload::go_on(&app, uid).await?;
                let winner = download_file(&app, uid).await?;
                return must_equal(&winner.content, &digests);
            }
            Finished::Swept => {
                // The object was published after its row was removed.
                app.stores.get(&intent.store)?.delete(std::slice::from_ref(&intent.key)).await?;
                return Err(Error::unavailable("the sweep removed the upload before it was recorded"));
            }
        }
    }
    Err(Error::unavailable("the same content was stored and removed too often at the same time"))
}

fn must_equal(stored: &Content, sent: &Digests) -> Result<()> {
    let known = stored.digests.ok_or_else(unverified)?;
    if known.blake3 == sent.blake3 { Ok(()) } else { Err(already_stored()) }
}

/// The error for content that was sent in parts and is not merged yet: without a digest of the
/// whole, it cannot be compared with what is sent now.
fn unverified() -> Error {
    let message = "this file is already complete; its digest is not computed yet, so it cannot be compared";
    Error::new(ErrorCode::AlreadyStored, message)
}

fn already_stored() -> Error {
    Error::new(ErrorCode::AlreadyStored, "this file is already complete, with other content")
}
