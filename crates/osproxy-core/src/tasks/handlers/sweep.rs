//! Removes orphans that crashes and failed cleanups have left, releases unused reservations, and
//! purges old rows.

use std::{collections::HashSet, time::Duration};

use osproxy_meta::{ObjectRowKind, TaskKind, UnfinishedRow};
use osproxy_types::{error_chain, uid::Uid};

use crate::{
    App, Result,
    tasks::{TaskContext, TaskError, TaskHandler},
};

/// Writes younger than this are skipped, because their process may not be registered yet.
const GRACE: Duration = Duration::from_mins(1);
/// How long finished tasks are kept.
const TASK_RETENTION: Duration = Duration::from_hours(24);
/// How long the rows of deleted files are kept.
const FILE_RETENTION: Duration = Duration::from_hours(7 * 24);
/// Maximum number of rows to read in one query.
const PAGE: u64 = 200;
/// Maximum number of events, or of deliveries, to delete in one transaction.
const EVENT_PAGE: u64 = 1000;

/// Handler of the task `sweep`.
pub(super) struct Sweep;

impl TaskHandler for Sweep {
    const KIND: TaskKind = TaskKind::Sweep;
    const INTERVAL: Option<Duration> = Some(Duration::from_mins(10));
    const PER_STORE: bool = true;
    type Payload = ();

    async fn run(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        let app = &context.app;
        let Some(store) = &context.store else {
            return Ok(());
        };
        let mut begun_before = time_before(app, GRACE);
        if !app.stores.is_shared(store) {
            // In a node-local store, a write that began before this process started has no live
            // writer.
            begun_before = begun_before.max(app.started_at);
        }
        let swept = SweepScope { store, begun_before, writers: app.live_writers(store).await? };
        let mut removed = 0;
        // Parts first: a blob can be removed only when it has no parts.
        for kind in [ObjectRowKind::Part, ObjectRowKind::Blob] {
            removed += sweep(app, kind, &swept).await?;
        }
        if removed > 0 {
            tracing::info!(removed, "removed orphans of unfinished uploads");
        }
        release_reservations(app, store).await?;
        app.meta.blobs.delete_gone_parts(None).await?;
        while app.meta.tasks.purge(time_before(app, TASK_RETENTION), PAGE).await? > 0 {}
        while app.meta.files.purge(time_before(app, FILE_RETENTION), PAGE).await? > 0 {}
        while app.meta.idempotency.purge(PAGE).await? > 0 {}
        while app.meta.uploads.purge_challenges(PAGE).await? > 0 {}
        while app.meta.access.purge_link_uses(PAGE).await? > 0 {}
        while app.meta.access.purge_grants(PAGE).await? > 0 {}
        let events_before = app.meta.now_ms().saturating_sub(app.limits.event_retention_ms);
        while app.meta.events.purge(events_before, EVENT_PAGE).await? > 0 {}
        purge_deliveries(app).await?;
        Ok(())
    }
}

/// Purges old deliveries. Those that are dead are kept as long as their events, because they can be
/// replayed until then.
async fn purge_deliveries(app: &App) -> Result<()> {
    let delivered_before = time_before(app, app.webhooks.settings.delivery_retention);
    let events_before = app.meta.now_ms().saturating_sub(app.limits.event_retention_ms);
    let before = delivered_before.min(events_before);
    while app.meta.webhooks.purge_deliveries(before, EVENT_PAGE).await? > 0 {}
    // No older delivery is left that was delivered.
    let since = app.webhooks.purged_before().max(before);
    while app.meta.webhooks.purge_delivered(since..delivered_before, EVENT_PAGE).await? > 0 {}
    app.webhooks.set_purged_before(delivered_before);
    Ok(())
}

/// Releases the disk space reserved for uploads that were created more than
/// `reservation_timeout_ms` ago and have not started to receive a part.
async fn release_reservations(app: &App, store: &str) -> Result<()> {
    let (created_before, mut after) =
        (app.meta.now_ms().saturating_sub(app.limits.reservation_timeout_ms), Uid::from_db(0));
    loop {
        let page = app.meta.uploads.idle_reservations(store, created_before, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = *last;
        for uid in page {
            let task_id = app.uids.next().await?;
            if app.meta.uploads.release_reservation(uid, task_id).await? {
                app.task_notifier.notify_node();
            }
        }
    }
}

/// Returns the time `age` ago, in milliseconds since the Unix epoch.
fn time_before(app: &App, age: Duration) -> i64 {
    app.meta.now_ms().saturating_sub(age.as_millis().try_into().unwrap_or(i64::MAX))
}

/// The store and the writes that a sweep covers.
struct SweepScope<'a> {
    store: &'a str,
    /// Covers writes that began before this time, in milliseconds since the Unix epoch.
    begun_before: i64,
    /// Ids of the live processes, whose writes are skipped.
    writers: HashSet<String>,
}

impl SweepScope<'_> {
    /// Whether the writer of `found` may still be writing.
    fn is_in_use(&self, app: &App, found: &UnfinishedRow) -> bool {
        match &found.writer {
            Some(writer) if *writer != app.node_id => self.writers.contains(writer),
            _ => app.objects.active_writes().contains(&found.id),
        }
    }
}

/// Removes the unfinished writes of this kind that are old enough and have no live writer, and
/// finishes started deletions. Returns the number of removed rows.
async fn sweep(app: &App, kind: ObjectRowKind, swept: &SweepScope<'_>) -> Result<u64> {
    let (mut after, mut removed) = (0, 0);
    loop {
        let page = app.meta.blobs.unfinished_rows(kind, swept.store, swept.begun_before, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(removed);
        };
        after = last.id;
        for found in page {
            if swept.is_in_use(app, &found) {
                continue;
            }
            let id = found.id;
            match sweep_one(app, kind, found).await {
                Ok(true) => removed += 1,
                Ok(false) => {}
                // Continue with the other rows: removing them may succeed.
                Err(error) => {
                    tracing::error!(
                        id,
                        ?kind,
                        error = error_chain(&error),
                        "cannot remove an orphan; the next sweep retries"
                    );
                }
            }
        }
    }
}

async fn sweep_one(
    app: &App,
    kind: ObjectRowKind,
    UnfinishedRow { id, writer }: UnfinishedRow,
) -> Result<bool> {
    match (kind, writer) {
        // A client may have continued the part after the row was read.
        (ObjectRowKind::Part, Some(writer)) if writer != app.node_id => {
            Ok(app.meta.blobs.abandon_part(id, writer).await?
                && app.objects.delete_unreferenced(kind, id).await?)
        }
        (ObjectRowKind::Part, _) => app.objects.delete_unreferenced(kind, id).await,
        (ObjectRowKind::Blob, _) => {
            Ok(app.meta.blobs.mark_deleting(kind, id).await?.is_some() && app.objects.delete_blob(id).await?)
        }
    }
}
