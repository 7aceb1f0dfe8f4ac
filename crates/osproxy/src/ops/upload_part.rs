//! Upload one part of a file.

use std::{error::Error as _, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use osproxy_api::ErrorCode;
use osproxy_storage::{self as storage, Wanted};

use super::{Said, Terms, check_quota, check_type, closed, complete_upload, too_large, unknown_uid};
use crate::{
    Error, Result,
    app::{
        App, Attempt, Beginning, Bound, Received, SizeHint, Target, Transfer, Writing, check_claims, kept,
        measured, publish,
    },
    content_type::{self, HEAD},
    error,
    meta::{BegunPart, Claims, FileState, FinishedPart, Kind, Misfit, PartIntent, ReceivedPart},
    uid::Uid,
};

/// How often to look again when concurrent requests start the same upload.
const ROUNDS: usize = 3;

/// Stores `body` as part `number` of `uid` and returns when it is durable. The part must have the
/// expected digests and meet the constraints of the link. Of the digests beside BLAKE3, those in
/// `wanted` are recorded, so that damage to the part can be detected later.
///
/// Parts may come in any order and concurrently. Sending a part again replaces it; of concurrent
/// writes of the same part, the one that ends last counts. A write that fails leaves nothing
/// behind, and does not affect the part that was there before.
pub async fn upload_part(
    app: &Arc<App>,
    uid: Uid,
    number: u32,
    Said { expected: claims, digests: wanted, constraints: terms }: Said,
    size: SizeHint,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    check_number(app, number)?;
    app.must_keep_up(Beginning::Content)?;
    app.must_leave_free(0).await?;
    // Such a store needs the length of a part in advance.
    let needs_length = app.stores.put_any_parts_together();
    let transfer = app.transfers.begin(&terms, if needs_length { kept(size) } else { 0 }).await?;
    let max = app.limits.max_part_size.min(terms.max_size.unwrap_or(u64::MAX));
    let bound = Bound { subject: "part", max };
    let wanted = Wanted { md5: wanted.md5 || claims.md5.is_some(), ..claims.wanted() };
    let expected = Expected { expected: claims, selection: wanted, limit: bound, constraints: terms };
    if needs_length {
        let (size, body) = measured(bound, size, body).await?;
        return receive(app, uid, number, (expected, transfer), size, body).await;
    }
    receive(app, uid, number, (expected, transfer), size, body).await
}

/// What the body must satisfy.
struct Expected {
    expected: Claims,
    selection: Wanted,
    limit: Bound,
    constraints: Terms,
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
    (expected, mut transfer): (Expected, Transfer),
    size: SizeHint,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    // Changes to the database are spawned, so that a client that disconnects does not cut them off.
    let beginning =
        app.background.spawn(begin(app.clone(), uid, number, size, expected.constraints.max_size));
    let begun = beginning.await.map_err(Error::internal)??;
    let (attempt, intent, upload) = (begun.guard, begun.intent, begun.upload);
    let target = match (&intent.slot, &upload) {
        (Some(place), Some(upload)) => Target::MultipartPart(&place.key, upload, number),
        _ => Target::Object(&intent.key),
    };
    let Expected { expected: claims, selection: mut wanted, limit: bound, constraints: terms } = expected;
    let range = intent.layout.and_then(|shape| shape.range(number));
    // With an announced size, the length of each part is known, and the length in the request does
    // not matter.
    let size = range.as_ref().map_or(size, |range| SizeHint::Exact(range.end - range.start));
    wanted.subtree_offset =
        range.filter(|_| intent.layout.is_some_and(|shape| shape.parts() > 1)).map(|range| range.start);
    let outcome = async {
        transfer.of(&intent.tenant)?;
        if intent.layout.is_none() {
            check_quota(app, &intent.tenant, size).await?;
        }
        let part = app.receive(&intent.store, target, wanted, bound, size, body).await?;
        let part = Received { buffers: transfer.buffers(), ..part };
        check_claims(&claims, &part.digests)?;
        // The first bytes tell the type of the content. If this part is too short to tell,
        // completion checks it.
        let is_conclusive = part.digests.size >= HEAD as u64 || content_type::speaks_of_type(part.sniffed);
        if number == 1 && is_conclusive && terms.content_type.is_some() {
            let file = app.meta.describe_file(uid).await?.ok_or_else(unknown_uid)?;
            check_type(&terms, part.sniffed, &file.name)?;
        }
        let ending = app.background.spawn(store(app.clone(), uid, attempt, intent.clone(), part, terms));
        ending.await.map_err(Error::internal)?
    };
    match (outcome.await, upload) {
        (Err(error), Some(upload)) if is_of_store(&error) => {
            let place = intent.slot.as_ref();
            let key = place.map_or(&intent.key, |place| &place.key);
            if app.lose_if_gone(&intent.store, intent.blob_id, key, &upload).await? {
                return Err(Error::unavailable(error));
            }
            // A part that arrives after the end of the upload has no target.
            match app.meta.file_state(uid).await? {
                Some(FileState::Pending | FileState::Receiving) => Err(error),
                state => Err(state.map_or_else(unknown_uid, closed)),
            }
        }
        (outcome, _) => outcome,
    }
}

fn explain(mismatch: Misfit) -> Error {
    let message = match mismatch {
        Misfit::TooManyParts(parts) => format!("this upload has {parts} parts, by its size and part size"),
        Misfit::WrongSize(size) => {
            format!("this part must have {size} bytes, by the size and part size of this upload")
        }
    };
    Error::new(ErrorCode::SizeMismatch, message)
}

/// Whether the store failed.
fn is_of_store(error: &Error) -> bool {
    error.source().is_some_and(<dyn std::error::Error>::is::<storage::Error>)
}

struct Begun {
    guard: Attempt,
    intent: PartIntent,
    /// The store's id of the multipart upload that the part goes to, if any.
    upload: Option<String>,
}

async fn begin(app: Arc<App>, uid: Uid, number: u32, size: SizeHint, max_size: Option<u64>) -> Result<Begun> {
    let size = if let SizeHint::Exact(size) = size { Some(size) } else { None };
    for _ in 0..ROUNDS {
        let attempt = app.next_uid().await?;
        let writing = Writing::new(&app, attempt.get());
        match app.meta.begin_part(uid, number, attempt, size, max_size).await? {
            BegunPart::Ready(intent) => {
                let attempt = Attempt::new(Kind::Part, writing);
                let Some(place) = &intent.slot else {
                    return Ok(Begun { guard: attempt, intent, upload: None });
                };
                // Otherwise the upload has ended meanwhile: look again.
                if let Some(upload) =
                    app.begun_upload(&intent.store, intent.blob_id, place, &intent.tenant).await?
                {
                    return Ok(Begun { guard: attempt, intent, upload: Some(upload) });
                }
            }
            BegunPart::Closed(FileState::Completing) => complete_upload::go_on(&app, uid).await?,
            BegunPart::Closed(state) => return Err(closed(state)),
            BegunPart::OtherNode(store) => return Err(Error::elsewhere(&store)),
            BegunPart::Unknown => return Err(unknown_uid()),
            BegunPart::Mismatch(misfit) => return Err(explain(misfit)),
            BegunPart::TooLarge => return Err(too_large(max_size.unwrap_or_default())),
            BegunPart::Conflict => {}
        }
    }
    Err(Error::unavailable("too many concurrent requests started this upload"))
}

async fn store(
    app: Arc<App>,
    uid: Uid,
    mut guard: Attempt,
    intent: PartIntent,
    part: Received,
    terms: Terms,
) -> Result<()> {
    let _ending = app.metrics.commits.begin();
    let mut tag = String::new();
    if intent.slot.is_some() {
        // If the part appears in the store later, nothing refers to its tag.
        tag = part.writer.publish().await?;
    } else {
        publish(&mut guard, &mut Some(part.writer)).await?;
    }
    let Terms { max_size, content_type, .. } = terms;
    let received = ReceivedPart { digests: part.digests, sniffed: part.sniffed, tag, max_size, content_type };
    let finished = app.meta.finish_part(uid, &intent, received).await?;
    if !matches!(finished, FinishedPart::Stored(_)) && intent.slot.is_none() {
        // Its row may be gone already, and the write guard cannot find the object without it.
        app.stores.get(&intent.store)?.delete(std::slice::from_ref(&intent.key)).await?;
    }
    match finished {
        FinishedPart::Stored(replaced) => {
            guard.settle();
            if let Some(replaced) = replaced
                // The sweep removes later what cannot be removed now.
                && let Err(error) = app.discard(Kind::Part, replaced).await
            {
                tracing::warn!(
                    part_id = replaced,
                    error = error::chain(&error),
                    "cannot remove a replaced part yet; the sweep retries"
                );
            }
            Ok(())
        }
        FinishedPart::Unchanged => Ok(()),
        FinishedPart::TooLarge => Err(too_large(max_size.unwrap_or_default())),
        FinishedPart::OverQuota => Err(Error::over_quota()),
        FinishedPart::Closed => {
            let state = app.meta.file_state(uid).await?;
            Err(state.map_or_else(unknown_uid, |state| match state {
                // The parts of this file now belong to another blob.
                FileState::Pending | FileState::Receiving => Error::unavailable("the upload was restarted"),
                state => closed(state),
            }))
        }
        FinishedPart::Swept => Err(Error::unavailable("the sweep removed the part before it was recorded")),
    }
}
