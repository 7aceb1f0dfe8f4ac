//! Deletion of objects and their rows. The object is always deleted before its row, so that no
//! object is left without a row.

use osproxy_meta::{ObjectRowKind, PendingDelete};
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
        part_size: Option<u64>,
    ) -> Result<()> {
        if kind == ObjectRowKind::Blob {
            self.abort_multipart_uploads(store, &key, part_size).await?;
        }
        Ok(self.stores.get(store)?.delete(&[key]).await?)
    }

    /// Aborts all multipart uploads for a key, if the store supports multipart uploads. `part_size`
    /// is the fixed part size of the blob in bytes, if it has one.
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
            self.delete_object(&remains.store, ObjectRowKind::Blob, key, remains.part_size).await?;
        }
        Ok(self.meta.blobs.delete_row(ObjectRowKind::Blob, blob_id).await?)
    }
}
