//! Deletion of objects and their rows. The object is always deleted before its row, so that no
//! object is left without a row.

use osproxy_meta::{ObjectRowKind, PendingDelete, UnusedSlot};
use osproxy_storage::Key;

use super::Objects;
use crate::Result;
use crate::boxed_future;

/// Maximum number of parts that are deleted together. Remote stores delete as many objects with one
/// request.
const DELETE_BATCH: usize = 1000;

impl Objects {
    /// Deletes an object that is not content, and its row: marks the row for deletion, then deletes
    /// the object, then the row. Returns `false` if the object has become content, or the row is
    /// gone. After a crash between these steps, the sweep does the rest.
    #[boxed_future]
    pub async fn delete_unreferenced(&self, kind: ObjectRowKind, id: i64) -> Result<bool> {
        let Some(PendingDelete { store, key, slot_size, slot }) =
            self.meta.blobs.mark_deleting(kind, id).await?
        else {
            return Ok(false);
        };
        if slot.is_some() {
            return self.delete_slot(id).await;
        }
        if let Some(key) = key {
            self.delete_object(&store, kind, key, slot_size).await?;
        }
        self.meta.blobs.delete_row(kind, id).await?;
        Ok(true)
    }

    /// Discards the bytes of a part in a preallocated file that grows with its parts, then deletes
    /// the row of the part.
    async fn delete_slot(&self, id: i64) -> Result<bool> {
        // As soon as the row is gone, another write may use the slot: a concurrent deletion of the
        // same row would then discard the bytes of that write. Only this process uses the store.
        let _deleting = self.locks.slot_deletions.lock_for(id).lock().await;
        let kind = ObjectRowKind::Part;
        let Some(PendingDelete { store, slot, .. }) = self.meta.blobs.mark_deleting(kind, id).await? else {
            return Ok(false);
        };
        if let Some(UnusedSlot { key, upload_id, number }) = slot {
            self.stores.multipart(&store)?.discard_part(&key, &upload_id, number).await?;
        }
        self.meta.blobs.delete_row(kind, id).await?;
        Ok(true)
    }

    /// Deletes the row of a write that has published nothing. Does not delete the object under the
    /// key of the row, if there is one. Returns `false` if the row is gone or has become content.
    pub async fn delete_unpublished_row(&self, kind: ObjectRowKind, id: i64) -> Result<bool> {
        Ok(self.meta.blobs.mark_deleting(kind, id).await?.is_some()
            && self.meta.blobs.delete_row(kind, id).await?)
    }

    /// Deletes the object of a row. First aborts the multipart uploads for the key of a blob,
    /// because completing one later would create the object again.
    async fn delete_object(
        &self,
        store: &str,
        kind: ObjectRowKind,
        key: Key,
        slot_size: Option<u64>,
    ) -> Result<()> {
        if kind == ObjectRowKind::Blob {
            self.abort_multipart_uploads(store, &key, slot_size).await?;
        }
        Ok(self.stores.get(store)?.delete(&[key]).await?)
    }

    /// Aborts all multipart uploads for a key, if the store supports multipart uploads. `slot_size`
    /// is the size of the slots of the blob's preallocated file in bytes, if it can have one.
    pub async fn abort_multipart_uploads(
        &self,
        store: &str,
        key: &Key,
        slot_size: Option<u64>,
    ) -> Result<()> {
        match self.stores.get(store)?.multipart() {
            Some(multipart) => Ok(multipart.abort_all(key, slot_size).await?),
            None => Ok(()),
        }
    }

    /// Deletes parts: first their objects, then their rows. Parts without a key have no object of
    /// their own.
    #[boxed_future]
    pub async fn delete_parts(&self, store: &str, parts: &[(i64, Option<Key>)]) -> Result<()> {
        for batch in parts.chunks(DELETE_BATCH) {
            let (ids, keys): (Vec<_>, Vec<_>) = batch.iter().cloned().unzip();
            let keys: Vec<_> = keys.into_iter().flatten().collect();
            self.stores.get(store)?.delete(&keys).await?;
            self.meta.blobs.delete_part_rows(ids).await?;
        }
        Ok(())
    }

    /// Deletes a blob in state `deleting`, with its parts and its object. Returns `false` if some
    /// parts are still being written: the write guards remove those parts, and a later call deletes
    /// the blob.
    #[boxed_future]
    pub async fn delete_blob(&self, blob_id: i64) -> Result<bool> {
        let Some(remains) = self.meta.blobs.deleting(blob_id).await? else {
            return Ok(true);
        };
        let count = remains.parts.len();
        let mut idle = remains.parts;
        {
            let writing = self.active_writes();
            // Skip parts that are being written: each of these writes finds the blob gone, and its
            // write guard then removes the part.
            idle.retain(|(id, _)| !writing.contains(id));
        }
        self.delete_parts(&remains.store, &idle).await?;
        if idle.len() < count {
            return Ok(false);
        }
        if let Some(key) = remains.object {
            self.delete_object(&remains.store, ObjectRowKind::Blob, key, remains.slot_size).await?;
        }
        Ok(self.meta.blobs.delete_row(ObjectRowKind::Blob, blob_id).await?)
    }
}
