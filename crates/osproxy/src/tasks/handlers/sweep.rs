//! Removes what ended badly left behind: after a crash, after an error while cleaning up. And forgets what was long ago.

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

/// What was begun later than this before a sweep is left alone: it may not have told that it is running.
const GRACE: Duration = Duration::from_mins(1);
/// How long it is known that a task was done.
const KEEP_TASKS: Duration = Duration::from_hours(24);
/// How long it is known that a file was there.
const KEEP_FILES: Duration = Duration::from_hours(7 * 24);
/// How many rows are looked at in one go.
const PAGE: u64 = 200;

/// The handler.
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
            // Nobody alive has begun what is older than this process.
            begun_before = begun_before.max(app.started_at);
        }
        let swept = Swept { store, begun_before, writers: app.writers_of(store).await? };
        let mut removed = 0;
        // Parts first: a blob goes only when none of its parts is left.
        for kind in [Kind::Part, Kind::Blob] {
            removed += sweep(app, kind, &swept).await?;
        }
        if removed > 0 {
            tracing::info!(removed, "swept away what unfinished uploads left");
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

/// Gives up room in a store that was reserved long ago for uploads of which nothing has come.
async fn release_rooms(app: &App, store: &str) -> Result<()> {
    let (created_before, mut after) =
        (app.meta.now_ms().saturating_sub(app.limits.reserve), Uid::from_recorded(0));
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

/// A moment so long ago, in milliseconds since the Unix epoch.
fn before(app: &App, age: Duration) -> i64 {
    app.meta.now_ms().saturating_sub(age.as_millis().try_into().unwrap_or(i64::MAX))
}

/// What is looked at.
struct Swept<'a> {
    store: &'a str,
    /// Milliseconds since the Unix epoch.
    begun_before: i64,
    /// The processes that live.
    writers: HashSet<String>,
}

impl Swept<'_> {
    /// Whether something may still be on its way.
    fn spares(&self, app: &App, found: &Unfinished) -> bool {
        match &found.writer {
            Some(writer) if *writer != app.node => self.writers.contains(writer),
            _ => app.writing().contains(&found.id),
        }
    }
}

/// Removes everything of a kind that is no content, was begun long enough ago and is being written by nobody. Returns how
/// many there were.
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
                // One that cannot be removed must not keep the others.
                Err(error) => {
                    tracing::error!(id, ?kind, error = error::chain(&error), "cannot sweep this object");
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
