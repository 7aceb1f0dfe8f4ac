//! Removes orphans that crashes and failed cleanups have left, and purges old rows.

use std::{collections::HashSet, time::Duration};

use super::delete_blob;
use crate::{
    Result,
    app::App,
    error,
    meta::{Kind, Unfinished},
    tasks::{TaskContext, TaskError, TaskHandler},
    uid::Uid,
};

/// Younger writes are left alone: their process may not have announced itself yet.
const GRACE: Duration = Duration::from_mins(1);
/// How long finished tasks are kept.
const KEEP_TASKS: Duration = Duration::from_hours(24);
/// How long the rows of deleted files are kept.
const KEEP_FILES: Duration = Duration::from_hours(7 * 24);
/// How many rows to read at once.
const PAGE: u64 = 200;

/// Handler of the task `sweep`.
pub struct Sweep;

impl TaskHandler for Sweep {
    const KIND: &'static str = "sweep";
    const EVERY: Option<Duration> = Some(Duration::from_mins(10));
    const FOR_STORE: bool = true;
    type Payload = ();

    async fn run(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        let app = &context.app;
        let Some(store) = &context.store else {
            return Ok(());
        };
        let mut begun_before = before(app, GRACE);
        if !app.stores.is_shared(store) {
            // In a store of this node alone, writes older than this process have no live writer.
            begun_before = begun_before.max(app.started_at);
        }
        let swept = Swept { store, begun_before, writers: app.writers_of(store).await? };
        let mut removed = 0;
        // Parts first: a blob can be removed only when it has no parts.
        for kind in [Kind::Part, Kind::Blob] {
            removed += sweep(app, kind, &swept).await?;
        }
        if removed > 0 {
            tracing::info!(removed, "removed orphans of unfinished uploads");
        }
        release_rooms(app, store).await?;
        app.meta.forget_gone_parts(None).await?;
        while app.meta.purge_tasks(before(app, KEEP_TASKS), PAGE).await? > 0 {}
        while app.meta.purge_files(before(app, KEEP_FILES), PAGE).await? > 0 {}
        while app.meta.purge_keys(PAGE).await? > 0 {}
        while app.meta.purge_challenges(PAGE).await? > 0 {}
        while app.meta.purge_link_uses(PAGE).await? > 0 {}
        Ok(())
    }
}

/// Releases space in a store that was reserved too long ago for uploads that received nothing.
async fn release_rooms(app: &App, store: &str) -> Result<()> {
    let (created_before, mut after) =
        (app.meta.now_ms().saturating_sub(app.limits.reservation_ttl_ms), Uid::from_recorded(0));
    loop {
        let page = app.meta.idle_reservations(store, created_before, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = *last;
        for uid in page {
            let removal = delete_blob::removal(app, app.next_uid().await?);
            if app.meta.release_room(uid, removal).await? {
                app.task_enqueued();
            }
        }
    }
}

/// Returns the time `age` ago, in milliseconds since the Unix epoch.
fn before(app: &App, age: Duration) -> i64 {
    app.meta.now_ms().saturating_sub(age.as_millis().try_into().unwrap_or(i64::MAX))
}

/// What a sweep covers.
struct Swept<'a> {
    store: &'a str,
    /// In milliseconds since the Unix epoch.
    begun_before: i64,
    /// Ids of the live processes.
    writers: HashSet<String>,
}

impl Swept<'_> {
    /// Whether `found` may still be in use by its writer.
    fn spares(&self, app: &App, found: &Unfinished) -> bool {
        match &found.writer {
            Some(writer) if *writer != app.node_id => self.writers.contains(writer),
            _ => app.writing().contains(&found.id),
        }
    }
}

/// Removes everything of a kind that is not content, is old enough and has no live writer. Returns
/// how many were removed.
async fn sweep(app: &App, kind: Kind, swept: &Swept<'_>) -> Result<u64> {
    let (mut after, mut removed) = (0, 0);
    loop {
        let page = app.meta.unfinished(kind, swept.store, swept.begun_before, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(removed);
        };
        after = last.id;
        for found in page {
            if swept.spares(app, &found) {
                continue;
            }
            let id = found.id;
            match sweep_one(app, kind, id).await {
                Ok(true) => removed += 1,
                Ok(false) => {}
                // If one cannot be removed, the others still can.
                Err(error) => {
                    tracing::error!(
                        id,
                        ?kind,
                        error = error::chain(&error),
                        "cannot remove an orphan; the next sweep retries"
                    );
                }
            }
        }
    }
}

async fn sweep_one(app: &App, kind: Kind, id: i64) -> Result<bool> {
    match kind {
        Kind::Part => app.discard(kind, id).await,
        Kind::Blob => Ok(app.meta.condemn(kind, id).await?.is_some() && app.remove_blob(id).await?),
    }
}
