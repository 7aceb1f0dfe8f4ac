//! Cleanup of objects and their rows. An object is always deleted before its row, so that every
//! object has a row.

use osproxy_meta::{ObjectRowKind, PendingDelete};
use osproxy_storage::Key;

use super::Objects;
use crate::Result;

/// Maximum number of objects per delete request.
const DELETE_BATCH: usize = 500;

impl Objects {
    /// Removes an object that is not content: marks the row for deletion, deletes the object, then
    /// the row. Returns `false` if it has become content or is gone already. After a crash in
    /// between, the sweep continues.
    pub async fn delete_unreferenced(&self, kind: ObjectRowKind, id: i64) -> Result<bool> {
        let Some(PendingDelete { store, key, part_size }) = self.meta.blobs.mark_deleting(kind, id).await?
        else {
            return Ok(false);
        };
        if let Some(key) = key {
            self.delete_object(&store, kind, key, part_size).await?;
        }
        self.meta.blobs.delete_row(kind, id).await?;
        Ok(true)
    }

    /// Deletes the row of a write that published nothing. An object under its key stays.
    pub async fn delete_unpublished_row(&self, kind: ObjectRowKind, id: i64) -> Result<bool> {
        Ok(self.meta.blobs.mark_deleting(kind, id).await?.is_some()
            && self.meta.blobs.delete_row(kind, id).await?)
    }

    /// Deletes the object of a row. Multipart uploads for its key are aborted first, because they
    /// could still become that object.
    async fn delete_object(
        &self,
        store: &str,
        kind: ObjectRowKind,
        key: Key,
        part_size: Option<u64>,
    ) -> Result<()> {
        if kind == ObjectRowKind::Blob {
            self.abort_multipart_uploads(store, &key, part_size).await?;
        }
        Ok(self.stores.get(store)?.delete(&[key]).await?)
    }

    /// Aborts all multipart uploads for a key, if the store has such uploads. `part_size` is that
    /// of the blob, if it is fixed.
    pub async fn abort_multipart_uploads(
        &self,
        store: &str,
        key: &Key,
        part_size: Option<u64>,
    ) -> Result<()> {
        match self.stores.get(store)?.multipart() {
            Some(multipart) => Ok(multipart.abort_all(key, part_size).await?),
            None => Ok(()),
        }
    }

    /// Deletes the objects of parts, where they have their own, then the rows.
    pub async fn delete_parts(&self, store: &str, parts: &[(i64, Option<Key>)]) -> Result<()> {
        for batch in parts.chunks(DELETE_BATCH) {
            let (ids, keys): (Vec<_>, Vec<_>) = batch.iter().cloned().unzip();
            let keys: Vec<_> = keys.into_iter().flatten().collect();
            self.stores.get(store)?.delete(&keys).await?;
            self.meta.blobs.delete_part_rows(ids).await?;
        }
        Ok(())
    }

    /// Deletes a blob in state `deleting` with its objects. Returns `false` if some of its parts
    /// are still being written: their write guards remove them, and a later call deletes the blob.
    pub async fn delete_blob(&self, blob_id: i64) -> Result<bool> {
        let Some(remains) = self.meta.blobs.deleting(blob_id).await? else {
            return Ok(true);
        };
        let count = remains.parts.len();
        let mut idle = remains.parts;
        {
            let writing = self.active_writes();
            // The write guards of these remove them, once the writes find the blob gone.
            idle.retain(|(id, _)| !writing.contains(id));
        }
        self.delete_parts(&remains.store, &idle).await?;
        if idle.len() < count {
            return Ok(false);
        }
        if let Some(key) = remains.object {
            self.delete_object(&remains.store, ObjectRowKind::Blob, key, remains.part_size).await?;
        }
        Ok(self.meta.blobs.delete_row(ObjectRowKind::Blob, blob_id).await?)
    }
}
