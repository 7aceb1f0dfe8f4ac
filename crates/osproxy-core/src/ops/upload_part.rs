//! Upload one part of a file.

use std::{error::Error as _, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use osproxy_api::ErrorCode;
use osproxy_meta::{
    BeginPartOutcome, ExpectedDigests, FileState, FinishPartOutcome, ObjectRowKind, PartIntent, PartMismatch,
    ReceivedPart,
};
use osproxy_storage::{self as storage, DigestSelection};
use osproxy_types::{
    content_type::{self, HEAD},
    error_chain,
    uid::Uid,
};

use super::{
    LinkConstraints, UploadOptions, check_content_type, check_quota, complete_upload, state_error,
    too_large_error, unknown_uid_error,
};
use crate::{
    ActiveWrite, App, Error, Received, Result, SizeHint, SizeLimit, Transfer, WorkKind, WriteGuard,
    WriteTarget, buffer_short_body, buffered_bytes, check_digests, publish_once,
};

/// Maximum attempts when concurrent requests start the same upload.
const MAX_TRIES: usize = 3;

/// Stores `body` as part `number` of `uid` and returns when it is durable. The part must have the
/// expected digests and meet the constraints of the link. The digests selected in the options are
/// recorded in addition to BLAKE3, so that later damage to the part can be detected.
///
/// Parts may come in any order and concurrently. Sending a part again replaces it; of concurrent
/// writes of the same part, the one that ends last counts. A write that fails leaves nothing
/// behind, and does not affect the part that was there before.
pub async fn upload_part(
    app: &Arc<App>,
    uid: Uid,
    number: u32,
    UploadOptions { expected: claims, digests: wanted, constraints: terms }: UploadOptions,
    size: SizeHint,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    check_number(app, number)?;
    app.check_backpressure(WorkKind::Content)?;
    app.check_free_space(0).await?;
    // Such a store needs the length of a part in advance.
    let needs_length = app.stores.needs_part_lengths();
    let transfer = app.transfers.admit(&terms, if needs_length { buffered_bytes(size) } else { 0 }).await?;
    let max = app.limits.max_part_size.min(terms.max_size.unwrap_or(u64::MAX));
    let bound = SizeLimit { subject: "part", max };
    let wanted = DigestSelection { md5: wanted.md5 || claims.md5.is_some(), ..claims.selection() };
    let expected = PartRequirements { expected: claims, selection: wanted, limit: bound, constraints: terms };
    if needs_length {
        let (size, body) = buffer_short_body(bound, size, body).await?;
        return receive(app, uid, number, (expected, transfer), size, body).await;
    }
    receive(app, uid, number, (expected, transfer), size, body).await
}

/// Requirements for the body.
struct PartRequirements {
    expected: ExpectedDigests,
    selection: DigestSelection,
    limit: SizeLimit,
    constraints: LinkConstraints,
}

/// Fails unless `number` is an allowed part number.
pub fn check_number(app: &App, number: u32) -> Result<()> {
    let max = app.limits.max_parts;
    if (1..=max).contains(&number) {
        return Ok(());
    }
    Err(Error::invalid(format!("a part number must be 1 to {max}")))
}

async fn receive(
    app: &Arc<App>,
    uid: Uid,
    number: u32,
    (expected, mut transfer): (PartRequirements, Transfer),
    size: SizeHint,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    // Changes to the database are spawned, so that a client that disconnects does not cut them off.
    let beginning =
        app.background.spawn(begin_part(app.clone(), uid, number, size, expected.constraints.max_size));
    let begun = beginning.await.map_err(Error::internal)??;
    let (attempt, intent, upload) = (begun.guard, begun.intent, begun.upload);
    let target = match (&intent.slot, &upload) {
        (Some(place), Some(upload)) => WriteTarget::MultipartPart(&place.key, upload, number),
        _ => WriteTarget::Object(&intent.key),
    };
    let PartRequirements { expected: claims, selection: mut wanted, limit: bound, constraints: terms } =
        expected;
    let range = intent.layout.and_then(|shape| shape.range(number));
    // With an announced size, the length of each part is known, and the length in the request does
    // not matter.
    let size = range.as_ref().map_or(size, |range| SizeHint::Exact(range.end - range.start));
    wanted.subtree_offset =
        range.filter(|_| intent.layout.is_some_and(|shape| shape.parts() > 1)).map(|range| range.start);
    let outcome = async {
        transfer.charge(&intent.tenant)?;
        if intent.layout.is_none() {
            check_quota(app, &intent.tenant, size).await?;
        }
        let part = app.receive(&intent.store, target, wanted, bound, size, body).await?;
        let part = Received { buffers: transfer.buffers(), ..part };
        check_digests(&claims, &part.digests)?;
        // The first bytes determine the type of the content. If this part is too short for that,
        // completion checks it.
        let is_conclusive = part.digests.size >= HEAD as u64 || content_type::is_specific(part.sniffed);
        if number == 1 && is_conclusive && terms.content_type.is_some() {
            let file = app.meta.file_record(uid).await?.ok_or_else(unknown_uid_error)?;
            check_content_type(&terms, part.sniffed, &file.name)?;
        }
        let ending =
            app.background.spawn(commit_part(app.clone(), uid, attempt, intent.clone(), part, terms));
        ending.await.map_err(Error::internal)?
    };
    match (outcome.await, upload) {
        (Err(error), Some(upload)) if is_store_error(&error) => {
            let place = intent.slot.as_ref();
            let key = place.map_or(&intent.key, |place| &place.key);
            if app.reset_if_lost(&intent.store, intent.blob_id, key, &upload).await? {
                return Err(Error::unavailable(error));
            }
            // A part that arrives after the end of the upload has no target.
            match app.meta.file_state(uid).await? {
                Some(FileState::Pending | FileState::Receiving) => Err(error),
                state => Err(state.map_or_else(unknown_uid_error, state_error)),
            }
        }
        (outcome, _) => outcome,
    }
}

fn mismatch_error(mismatch: PartMismatch) -> Error {
    let message = match mismatch {
        PartMismatch::TooManyParts(parts) => {
            format!("the part number is too high: this upload has {parts} parts")
        }
        PartMismatch::WrongSize(size) => {
            format!("this part must have {size} bytes, as the size and part size of the upload require")
        }
    };
    Error::new(ErrorCode::SizeMismatch, message)
}

/// Whether the store failed.
fn is_store_error(error: &Error) -> bool {
    error.source().is_some_and(<dyn std::error::Error>::is::<storage::Error>)
}

struct StartedPart {
    guard: WriteGuard,
    intent: PartIntent,
    /// The store's id of the multipart upload that the part goes to, if any.
    upload: Option<String>,
}

async fn begin_part(
    app: Arc<App>,
    uid: Uid,
    number: u32,
    size: SizeHint,
    max_size: Option<u64>,
) -> Result<StartedPart> {
    let size = if let SizeHint::Exact(size) = size { Some(size) } else { None };
    for _ in 0..MAX_TRIES {
        let attempt = app.next_uid().await?;
        let writing = ActiveWrite::new(&app, attempt.get());
        match app.meta.begin_part(uid, number, attempt, size, max_size).await? {
            BeginPartOutcome::Ready(intent) => {
                let attempt = WriteGuard::new(ObjectRowKind::Part, writing);
                let Some(place) = &intent.slot else {
                    return Ok(StartedPart { guard: attempt, intent, upload: None });
                };
                // Otherwise the upload has ended meanwhile: look again.
                if let Some(upload) =
                    app.ensure_multipart_upload(&intent.store, intent.blob_id, place, &intent.tenant).await?
                {
                    return Ok(StartedPart { guard: attempt, intent, upload: Some(upload) });
                }
            }
            BeginPartOutcome::Closed(FileState::Completing) => {
                complete_upload::resume_completion(&app, uid).await?;
            }
            BeginPartOutcome::Closed(state) => return Err(state_error(state)),
            BeginPartOutcome::OtherNode(store) => return Err(Error::store_unreachable(&store)),
            BeginPartOutcome::Unknown => return Err(unknown_uid_error()),
            BeginPartOutcome::Mismatch(misfit) => return Err(mismatch_error(misfit)),
            BeginPartOutcome::TooLarge => return Err(too_large_error(max_size.unwrap_or_default())),
            BeginPartOutcome::Conflict => {}
        }
    }
    Err(Error::unavailable("too many concurrent requests for this upload; retry"))
}

async fn commit_part(
    app: Arc<App>,
    uid: Uid,
    mut guard: WriteGuard,
    intent: PartIntent,
    part: Received,
    terms: LinkConstraints,
) -> Result<()> {
    let _ending = app.metrics.commits.begin();
    let mut tag = String::new();
    if intent.slot.is_some() {
        // If the part appears in the store later, nothing refers to its tag.
        tag = part.writer.publish().await?;
    } else {
        publish_once(&mut guard, &mut Some(part.writer)).await?;
    }
    let LinkConstraints { max_size, content_type, .. } = terms;
    let received = ReceivedPart { digests: part.digests, sniffed: part.sniffed, tag, max_size, content_type };
    let finished = app.meta.finish_part(uid, &intent, received).await?;
    if !matches!(finished, FinishPartOutcome::Stored(_)) && intent.slot.is_none() {
        // Its row may be gone already, and the write guard cannot find the object without it.
        app.stores.get(&intent.store)?.delete(std::slice::from_ref(&intent.key)).await?;
    }
    match finished {
        FinishPartOutcome::Stored(replaced) => {
            guard.disarm();
            if let Some(replaced) = replaced
                // The sweep removes later what cannot be removed now.
                && let Err(error) = app.delete_unreferenced(ObjectRowKind::Part, replaced).await
            {
                tracing::warn!(
                    part_id = replaced,
                    error = error_chain(&error),
                    "cannot remove a replaced part yet; the sweep retries"
                );
            }
            Ok(())
        }
        FinishPartOutcome::Unchanged => Ok(()),
        FinishPartOutcome::TooLarge => Err(too_large_error(max_size.unwrap_or_default())),
        FinishPartOutcome::OverQuota => Err(Error::quota_exceeded()),
        FinishPartOutcome::Closed => {
            let state = app.meta.file_state(uid).await?;
            Err(state.map_or_else(unknown_uid_error, |state| match state {
                // The parts of this file now belong to another blob.
                FileState::Pending | FileState::Receiving => {
                    Error::unavailable("the upload was restarted; send the part again")
                }
                state => state_error(state),
            }))
        }
        FinishPartOutcome::Swept => {
            Err(Error::unavailable("the part took too long and was discarded; send it again"))
        }
    }
}
