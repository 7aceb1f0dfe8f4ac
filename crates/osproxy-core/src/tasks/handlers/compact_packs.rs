//! Compacts packs: moves the live objects out of packs of which much is dead space, and removes
//! these packs later.

use std::time::Duration;

use futures_util::{TryStreamExt, future::join_all};
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
        let emptied = app.meta.blobs.emptied_packs(store, emptied_before, PACKS_PER_RUN).await?;
        let full = app.meta.blobs.packs_to_compact(store, MIN_DEAD, before(MAX_AGE), PACKS_PER_RUN).await?;
        let packs =
            emptied.into_iter().map(|pack| (pack, true)).chain(full.into_iter().map(|pack| (pack, false)));
        for (pack, is_emptied) in packs {
            // Continue with the other packs: compacting them may succeed.
            if let Err(error) = compact_or_remove(app, store, pack, is_emptied).await {
                let error = error_chain(&error);
                tracing::error!(pack, error, "cannot compact a pack; the next run retries");
            }
        }
        Ok(())
    }
}

/// Moves the live objects out of a pack. Removes a pack that was emptied before, if it still has no
/// live objects: after a restored backup, it may have some again.
async fn compact_or_remove(app: &App, store: &str, pack: u32, is_emptied: bool) -> Result<()> {
    match compact(app, store, pack).await? {
        Compaction::InUse => Ok(()),
        Compaction::Missing => Ok(app.meta.blobs.forget_pack(store, pack).await?),
        Compaction::Moved(0) if is_emptied => {
            app.stores.packs(store)?.remove(pack).await?;
            Ok(app.meta.blobs.forget_pack(store, pack).await?)
        }
        Compaction::Moved(moved) => {
            tracing::info!(pack, moved, "compacted a pack");
            Ok(app.meta.blobs.mark_pack_emptied(store, pack).await?)
        }
    }
}

/// Result of compacting a pack.
enum Compaction {
    /// The pack is still in use. Nothing was moved.
    InUse,
    /// There is no such pack.
    Missing,
    /// This number of live objects was moved to the newest pack. No row refers to the pack any more.
    Moved(usize),
}

/// Moves all live objects of a pack to the newest pack. Fails if one of them cannot be read, after
/// the others are moved.
async fn compact(app: &App, store: &str, pack: u32) -> Result<Compaction> {
    let packs = app.stores.packs(store)?;
    packs.seal(pack).await?;
    let (mut from, mut count, mut failure) = (0, 0_usize, None);
    loop {
        let page = match packs.records(pack, from).await {
            Ok(page) => page,
            Err(error) if error.kind == ErrorKind::Busy => return Ok(Compaction::InUse),
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(Compaction::Missing),
            Err(error) => return Err(error.into()),
        };
        let ids = page.records.iter().map(|record| record.blob_id).collect();
        let keys = app.meta.blobs.stored_keys(store, ids).await?;
        let is_live = |record: &PackRecord| {
            keys.get(&record.blob_id).is_some_and(|key| key.as_str() == record.key.as_str())
        };
        let live: Vec<_> = page.records.into_iter().filter(is_live).collect();
        // Concurrently, because the objects that are appended at the same time share a sync.
        let copies = join_all(live.iter().map(|record| copy(app, store, packs, record))).await;
        // The copies are held until the rows refer to them.
        let (mut moves, mut held) = (Vec::new(), Vec::new());
        for (record, copy) in live.into_iter().zip(copies) {
            match copy {
                Ok(copy) => {
                    let to = copy.key.clone();
                    moves.push(PackedMove { blob_id: record.blob_id, from: record.key, to });
                    held.push(copy);
                }
                Err(error) => failure = Some(error),
            }
        }
        count += moves.len();
        app.meta.blobs.move_packed(store, moves).await?;
        drop(held);
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    failure.map_or(Ok(Compaction::Moved(count)), Err)
}

/// Copies an object to the newest pack. Damaged content is copied as it is: a scrub finds it by the
/// digest in its row.
async fn copy(app: &App, store: &str, packs: &dyn Packs, record: &PackRecord) -> Result<PackedObject> {
    let reader = app.stores.get(store)?.open(&record.key, 0..record.length).await?;
    let content: Vec<_> = reader.try_collect().await?;
    let PackRecord { blob_id, blake3, .. } = *record;
    Ok(packs.append(PackedContent { blob_id, blake3, bytes: content.concat().into(), is_copy: true }).await?)
}
