//! Take one part of a file that is sent in parts.

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

/// How often two that begin the same upload may meet.
const ROUNDS: usize = 3;

/// Stores `body` as part `number` of `uid` and returns when it is durable. The part must have the digests that are
/// claimed, and be what the link takes; of those beside BLAKE3 that are wanted, it is known later whether its bytes are still
/// the same.
///
/// Parts may come in any order and at the same time. One that is sent again replaces the one before; of two that are
/// sent at the same time the one that ends later counts. Whatever does not succeed leaves nothing behind, and what was
/// there before stays.
pub async fn upload_part(
    app: &Arc<App>,
    uid: Uid,
    number: u32,
    Said { claims, wanted, terms }: Said,
    size: SizeHint,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    check_number(app, number)?;
    app.must_keep_up(Beginning::Content)?;
    app.must_leave_free(0).await?;
    // Such a store wants to know the length of a part before it comes.
    let wants_length = app.stores.put_any_parts_together();
    let transfer = app.transfers.begin(&terms, if wants_length { kept(size) } else { 0 }).await?;
    let max = app.limits.max_part_size.min(terms.max_size.unwrap_or(u64::MAX));
    let bound = Bound { what: "part", max };
    let wanted = Wanted { md5: wanted.md5 || claims.md5.is_some(), ..claims.wanted() };
    let expected = Expected { claims, wanted, bound, terms };
    if wants_length {
        let (size, body) = measured(bound, size, body).await?;
        return receive(app, uid, number, (expected, transfer), size, body).await;
    }
    receive(app, uid, number, (expected, transfer), size, body).await
}

/// What a body has to be.
struct Expected {
    claims: Claims,
    wanted: Wanted,
    bound: Bound,
    terms: Terms,
}

/// Whether a part may have this number.
pub fn check_number(app: &App, number: u32) -> Result<()> {
    let max = app.limits.max_parts;
    if (1..=max).contains(&number) {
        return Ok(());
    }
    Err(Error::invalid(format!("the number of a part must be 1 to {max}")))
}

async fn receive(
    app: &Arc<App>,
    uid: Uid,
    number: u32,
    (expected, mut transfer): (Expected, Transfer),
    size: SizeHint,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    // What has begun to take effect is brought to its end, even if the client is gone: a task is not dropped with it.
    let beginning = app.background.spawn(begin(app.clone(), uid, number, size, expected.terms.max_size));
    let begun = beginning.await.map_err(Error::internal)??;
    let (attempt, intent, upload) = (begun.attempt, begun.intent, begun.upload);
    let target = match (&intent.native, &upload) {
        (Some(place), Some(upload)) => Target::Part(&place.key, upload, number),
        _ => Target::Object(&intent.key),
    };
    let Expected { claims, mut wanted, bound, terms } = expected;
    let range = intent.shape.and_then(|shape| shape.range(number));
    // Of content that is divided before it comes the length of each part is known, whatever the request says.
    let size = range.as_ref().map_or(size, |range| SizeHint::Exact(range.end - range.start));
    wanted.piece_at =
        range.filter(|_| intent.shape.is_some_and(|shape| shape.parts() > 1)).map(|range| range.start);
    let outcome = async {
        transfer.of(&intent.tenant)?;
        if intent.shape.is_none() {
            check_quota(app, &intent.tenant, size).await?;
        }
        let part = app.receive(&intent.store, target, wanted, bound, size, body).await?;
        let part = Received { buffers: transfer.buffers(), ..part };
        check_claims(&claims, &part.digests)?;
        // The beginning speaks for all of it. Where this is too short to tell, the upload is judged when it is complete.
        let speaks = part.digests.size >= HEAD as u64 || content_type::speaks_of_type(part.sniffed);
        if number == 1 && speaks && terms.content_type.is_some() {
            let file = app.meta.describe_file(uid).await?.ok_or_else(unknown_uid)?;
            check_type(&terms, part.sniffed, &file.name)?;
        }
        let ending = app.background.spawn(store(app.clone(), uid, attempt, intent.clone(), part, terms));
        ending.await.map_err(Error::internal)?
    };
    match (outcome.await, upload) {
        (Err(error), Some(upload)) if is_of_store(&error) => {
            let place = intent.native.as_ref();
            let key = place.map_or(&intent.key, |place| &place.key);
            if app.lose_if_gone(&intent.store, intent.blob_id, key, &upload).await? {
                return Err(Error::unavailable(error));
            }
            // A part that comes after the upload has ended finds nothing to write to.
            match app.meta.file_state(uid).await? {
                Some(FileState::Pending | FileState::Receiving) => Err(error),
                state => Err(state.map_or_else(unknown_uid, closed)),
            }
        }
        (outcome, _) => outcome,
    }
}

fn explain(misfit: Misfit) -> Error {
    let message = match misfit {
        Misfit::Number(parts) => format!("the size and part size of this upload make {parts} parts"),
        Misfit::Size(size) => {
            format!("this part must have {size} bytes, by the size and part size of this upload")
        }
    };
    Error::new(ErrorCode::SizeMismatch, message)
}

/// Whether it is the store that did not do it.
fn is_of_store(error: &Error) -> bool {
    error.source().is_some_and(<dyn std::error::Error>::is::<storage::Error>)
}

struct Begun {
    attempt: Attempt,
    intent: PartIntent,
    /// What the store calls the upload that the part goes into, if it does.
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
                let Some(place) = &intent.native else {
                    return Ok(Begun { attempt, intent, upload: None });
                };
                // Otherwise the upload has come to an end meanwhile, and is looked at again.
                if let Some(upload) =
                    app.begun_upload(&intent.store, intent.blob_id, place, &intent.tenant).await?
                {
                    return Ok(Begun { attempt, intent, upload: Some(upload) });
                }
            }
            BegunPart::Closed(FileState::Completing) => complete_upload::go_on(&app, uid).await?,
            BegunPart::Closed(state) => return Err(closed(state)),
            BegunPart::Elsewhere(store) => return Err(Error::elsewhere(&store)),
            BegunPart::Unknown => return Err(unknown_uid()),
            BegunPart::Misfit(misfit) => return Err(explain(misfit)),
            BegunPart::TooLarge => return Err(too_large(max_size.unwrap_or_default())),
            BegunPart::Changed => {}
        }
    }
    Err(Error::unavailable("the upload was begun too often at the same time"))
}

async fn store(
    app: Arc<App>,
    uid: Uid,
    mut attempt: Attempt,
    intent: PartIntent,
    part: Received,
    terms: Terms,
) -> Result<()> {
    let _ending = app.metrics.endings.begin();
    let mut tag = String::new();
    if intent.native.is_some() {
        // Should it appear later, it has a tag that nobody asks for.
        tag = part.writer.publish().await?;
    } else {
        publish(&mut attempt, &mut Some(part.writer)).await?;
    }
    let Terms { max_size, content_type, .. } = terms;
    let received = ReceivedPart { digests: part.digests, sniffed: part.sniffed, tag, max_size, content_type };
    let finished = app.meta.finish_part(uid, &intent, received).await?;
    if !matches!(finished, FinishedPart::Stored(_)) && intent.native.is_none() {
        // Its row may be gone already.
        app.stores.get(&intent.store)?.delete(std::slice::from_ref(&intent.key)).await?;
    }
    match finished {
        FinishedPart::Stored(replaced) => {
            attempt.settle();
            if let Some(replaced) = replaced
                // What this cannot remove now, the sweep does later.
                && let Err(error) = app.discard(Kind::Part, replaced).await
            {
                tracing::warn!(
                    part_id = replaced,
                    error = error::chain(&error),
                    "cannot remove a replaced part yet"
                );
            }
            Ok(())
        }
        FinishedPart::Same => Ok(()),
        FinishedPart::TooLarge => Err(too_large(max_size.unwrap_or_default())),
        FinishedPart::OverQuota => Err(Error::over_quota()),
        FinishedPart::Closed => {
            let state = app.meta.file_state(uid).await?;
            Err(state.map_or_else(unknown_uid, |state| match state {
                // Its parts are those of another upload now.
                FileState::Pending | FileState::Receiving => Error::unavailable("the upload was begun anew"),
                state => closed(state),
            }))
        }
        FinishedPart::Swept => Err(Error::unavailable("the part was swept away while it was finishing")),
    }
}
