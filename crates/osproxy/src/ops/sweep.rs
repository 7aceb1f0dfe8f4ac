//! Remove what uploads left behind that never ended: after a crash, after an error while cleaning up.

use std::{sync::Arc, time::Duration};

use osproxy_storage::Key;

use crate::{
    Error, Result,
    app::App,
    error,
    meta::{UnfinishedBlob, now_ms},
};

/// Time between two sweeps.
const INTERVAL: Duration = Duration::from_mins(10);
/// What was begun later than this before a sweep is left alone: it may not have told that it is running.
const GRACE: Duration = Duration::from_mins(1);
/// How many rows are looked at in one go.
const PAGE: u64 = 200;

/// Sweeps now and then every ten minutes. The first sweep takes everything that was begun before this process.
pub async fn run_forever(app: Arc<App>) {
    let mut begun_before = app.started_at;
    loop {
        match sweep(&app, begun_before).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "swept away what unfinished uploads left"),
            Err(error) => tracing::error!(error = error::chain(&error), "the sweep failed"),
        }
        tokio::time::sleep(INTERVAL).await;
        let grace = i64::try_from(GRACE.as_millis()).unwrap_or(i64::MAX);
        begun_before = now_ms().saturating_sub(grace);
    }
}

/// Removes every blob that is no content, was begun before a moment (milliseconds since the Unix epoch) and is not
/// being written by this process. Returns how many there were.
pub async fn sweep(app: &App, begun_before: i64) -> Result<u64> {
    let (mut after, mut removed) = (0, 0);
    loop {
        let page = app.meta.unfinished_blobs(begun_before, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(removed);
        };
        after = last.id;
        for UnfinishedBlob { id, object_key } in page {
            let running = app.writing().contains(&id);
            if running {
                continue;
            }
            match sweep_one(app, id, &object_key).await {
                Ok(true) => removed += 1,
                Ok(false) => {}
                // One that cannot be removed must not keep the others.
                Err(error) => {
                    tracing::error!(blob_id = id, error = error::chain(&error), "cannot sweep this blob");
                }
            }
        }
    }
}

async fn sweep_one(app: &App, id: i64, object_key: &str) -> Result<bool> {
    let key = Key::parse(object_key).map_err(Error::internal)?;
    discard(app, id, &key).await
}

/// Removes a blob that is no content: decides it, removes the object, then the row, so that no object is ever
/// without a row. `false` when it became content meanwhile, or is gone already. A crash in between leaves the row
/// for the next sweep.
pub(super) async fn discard(app: &App, id: i64, key: &Key) -> Result<bool> {
    if !app.meta.condemn_blob(id).await? {
        return Ok(false);
    }
    app.storage.delete(key).await?;
    app.meta.forget_blob(id).await?;
    Ok(true)
}
