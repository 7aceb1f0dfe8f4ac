//! Compacts packs: moves the live objects out of packs of which much is dead space, and removes
//! these packs later.

use std::time::Duration;

use futures_util::{TryStreamExt, future::try_join_all};
use osproxy_meta::{PackedMove, TaskKind};
use osproxy_storage::{ErrorKind, PackRecord, PackedContent, PackedObject, Packs};
use osproxy_types::error_chain;

use crate::{
    App, Result,
    tasks::{TaskContext, TaskError, TaskHandler},
};

/// A pack is compacted when it has this much dead space, in bytes: half of a full pack.
const MIN_DEAD: u64 = 32 << 20;
/// A pack is compacted when it has had any dead space for this time, so that deleted content does
/// not stay on the disk.
const MAX_AGE: Duration = Duration::from_hours(7 * 24);
/// How long a pack stays after its objects were moved, so that a backup of the database that is
/// older than the backup of the objects still finds them, and so do readers with a cached location.
const RETENTION: Duration = Duration::from_hours(24);
/// Maximum number of packs that one run compacts.
const PACKS_PER_RUN: u64 = 8;

/// Handler of the task `compact_packs`.
pub(super) struct CompactPacks;

impl TaskHandler for CompactPacks {
    const KIND: TaskKind = TaskKind::CompactPacks;
    const INTERVAL: Option<Duration> = Some(Duration::from_mins(10));
    const PER_STORE: bool = true;
    type Payload = ();

    async fn run(&self, context: &TaskContext, (): ()) -> Result<(), TaskError> {
        let app = &context.app;
        let Some(store) = &context.store else {
            return Ok(());
        };
        if app.stores.get(store)?.packs().is_none() {
            return Ok(());
        }
        let before = |age: Duration| {
            app.meta.now_ms().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
        };
        let emptied_before = before(RETENTION);
        for pack in app.meta.blobs.emptied_packs(store, emptied_before, PACKS_PER_RUN).await? {
            app.stores.packs(store)?.remove(pack).await?;
            app.meta.blobs.forget_pack(store, pack).await?;
        }
        for pack in app.meta.blobs.packs_to_compact(store, MIN_DEAD, before(MAX_AGE), PACKS_PER_RUN).await? {
            // Continue with the other packs: compacting them may succeed.
            match compact(app, store, pack).await {
                Ok(true) => app.meta.blobs.mark_pack_emptied(store, pack).await?,
                Ok(false) => {}
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::error!(pack, error, "cannot compact a pack; the next run retries");
                }
            }
        }
        Ok(())
    }
}

/// Moves all live objects of a pack to the newest pack. Returns `false` and moves nothing if the
/// pack is still in use.
async fn compact(app: &App, store: &str, pack: u32) -> Result<bool> {
    let packs = app.stores.packs(store)?;
    packs.seal(pack).await?;
    let (mut from, mut count) = (0, 0_usize);
    loop {
        let page = match packs.records(pack, from).await {
            Ok(page) => page,
            Err(error) if error.kind == ErrorKind::Busy => return Ok(false),
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let ids = page.records.iter().map(|record| record.blob_id).collect();
        let keys = app.meta.blobs.stored_keys(store, ids).await?;
        let is_live = |record: &PackRecord| {
            keys.get(&record.blob_id).is_some_and(|key| key.as_str() == record.key.as_str())
        };
        let live: Vec<_> = page.records.into_iter().filter(is_live).collect();
        // Concurrently, because the objects that are appended at the same time share a sync.
        let copies = try_join_all(live.iter().map(|record| copy(app, store, packs, record))).await?;
        let of_copy = |(record, copy): (PackRecord, &Option<PackedObject>)| {
            let to = copy.as_ref()?.key.clone();
            Some(PackedMove { blob_id: record.blob_id, from: record.key, to })
        };
        let moves: Vec<_> = live.into_iter().zip(&copies).filter_map(of_copy).collect();
        count += moves.len();
        app.meta.blobs.move_packed(store, moves).await?;
        // Only now, the rows refer to the copies.
        drop(copies);
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    tracing::info!(pack, moved = count, "compacted a pack");
    Ok(true)
}

/// Copies an object to the newest pack. Returns `None` if the object was deleted. Damaged content is
/// copied as it is: a scrub finds it by the digest in its row.
async fn copy(
    app: &App,
    store: &str,
    packs: &dyn Packs,
    record: &PackRecord,
) -> Result<Option<PackedObject>> {
    let content: Vec<_> = match app.stores.get(store)?.open(&record.key, 0..record.length).await {
        Ok(reader) => reader.try_collect().await?,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let PackRecord { blob_id, blake3, .. } = *record;
    Ok(Some(packs.append(PackedContent { blob_id, blake3, bytes: content.concat().into() }).await?))
}
