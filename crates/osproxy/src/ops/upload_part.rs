//! Take one part of a file that is sent in parts.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;

use super::{closed, unknown_uid};
use crate::{
    Error, Result,
    app::{App, Attempt, Bound, Received, SizeHint, Writing, check_md5},
    error,
    meta::{BegunPart, FileState, FinishedPart, Kind, PartIntent},
    uid::Uid,
};

/// How often two that begin the same upload may meet.
const ROUNDS: usize = 3;

/// Stores `body` as part `number` of `uid` and returns when it is durable. With `md5` the part must have that digest.
///
/// Parts may come in any order and at the same time. One that is sent again replaces the one before; of two that are
/// sent at the same time the one that ends later counts. Whatever does not succeed leaves nothing behind, and what was
/// there before stays.
pub async fn upload_part(
    app: &Arc<App>,
    uid: Uid,
    number: u32,
    md5: Option<[u8; 16]>,
    size: SizeHint,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    let max = app.limits.max_parts;
    if !(1..=max).contains(&number) {
        return Err(Error::invalid(format!("the number of a part must be 1 to {max}")));
    }
    // What has begun to take effect is brought to its end, even if the client is gone: a task is not dropped with it.
    let beginning = app.background.spawn(begin(app.clone(), uid, number));
    let (attempt, intent) = beginning.await.map_err(Error::internal)??;
    let bound = Bound { what: "part", max: app.limits.max_part_size };
    let part = app.receive(&intent.key, bound, size, body).await?;
    check_md5(md5, &part.digests)?;
    let ending = app.background.spawn(store(app.clone(), uid, attempt, intent, part));
    ending.await.map_err(Error::internal)?
}

async fn begin(app: Arc<App>, uid: Uid, number: u32) -> Result<(Attempt, PartIntent)> {
    for _ in 0..ROUNDS {
        let attempt = app.next_uid().await?;
        let writing = Writing::new(&app, attempt.get());
        match app.meta.begin_part(uid, number, attempt).await? {
            BegunPart::Ready(intent) => {
                return Ok((Attempt::new(Kind::Part, writing), intent));
            }
            BegunPart::Closed(state) => return Err(closed(state)),
            BegunPart::Elsewhere(store) => return Err(Error::elsewhere(&store)),
            BegunPart::Unknown => return Err(unknown_uid()),
            BegunPart::Changed => {}
        }
    }
    Err(Error::unavailable("the upload was begun too often at the same time"))
}

async fn store(app: Arc<App>, uid: Uid, attempt: Attempt, intent: PartIntent, part: Received) -> Result<()> {
    part.writer.publish().await?;
    match app.meta.finish_part(uid, &intent, part.digests, part.sniffed).await? {
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
