//! What has to be done to rows and objects together, in this order and no other.

use futures_util::TryStreamExt;
use osproxy_storage::{ErrorKind, Key, ObjectWriter};

use super::App;
use crate::{
    Result,
    meta::{Blob, Condemned, Kind, StoredPart},
};

/// How many objects are removed at once.
const BATCH: usize = 500;

impl App {
    /// Whether the object of a blob is there in its full length. Content is shared only then: what was damaged behind
    /// osproxy's back must not swallow what clients send again.
    ///
    /// Of what lies with another node this is taken for granted as long as that node is there: it alone can find out, and
    /// mend. If it is away, whoever sends the content again brings it back.
    pub async fn is_intact(&self, blob: &Blob) -> Result<bool> {
        if !self.stores.has(&blob.backend) {
            return Ok(!self.is_away(&blob.backend).await);
        }
        match self.stores.get(&blob.backend)?.size(&blob.key).await {
            Ok(size) => Ok(size == blob.digests.size),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an object that is no content: decides it, removes the object that the row names, then the row, so that no
    /// object is ever without a row. `false` when it became content meanwhile, or is gone already. A crash in between
    /// leaves the row for the sweep.
    pub async fn discard(&self, kind: Kind, id: i64) -> Result<bool> {
        let Some(Condemned { store, key, part_size }) = self.meta.condemn(kind, id).await? else {
            return Ok(false);
        };
        if let Some(key) = key {
            self.erase(&store, kind, key, part_size).await?;
        }
        self.meta.forget(kind, id).await?;
        Ok(true)
    }

    /// Removes the row of an attempt that has published nothing. Whatever lies under its key stays.
    pub async fn forget_unpublished(&self, kind: Kind, id: i64) -> Result<bool> {
        Ok(self.meta.condemn(kind, id).await?.is_some() && self.meta.forget(kind, id).await?)
    }

    /// Removes what lies under the key of a row. An upload of the store's goes before the object that it could still become.
    async fn erase(&self, store: &str, kind: Kind, key: Key, part_size: Option<u64>) -> Result<()> {
        if kind == Kind::Blob {
            self.abort_uploads(store, &key, part_size).await?;
        }
        Ok(self.stores.get(store)?.delete(&[key]).await?)
    }

    /// Drops all uploads in which a store, if it can, collects parts for a key. `part_size`: of the parts of that blob, if
    /// it was settled.
    pub async fn abort_uploads(&self, store: &str, key: &Key, part_size: Option<u64>) -> Result<()> {
        match self.stores.get(store)?.multipart() {
            Some(multipart) => Ok(multipart.abort_all(key, part_size).await?),
            None => Ok(()),
        }
    }

    /// Appends a part to what is being written in the same store.
    pub async fn append_part(
        &self,
        store: &str,
        writer: &mut dyn ObjectWriter,
        part: &StoredPart,
    ) -> Result<()> {
        if part.is_object && writer.append_object(&part.key, part.size).await? {
            return Ok(());
        }
        let mut bytes = self.stores.get(store)?.open(&part.key, part.range()).await?;
        while let Some(bytes) = bytes.try_next().await? {
            writer.write(bytes).await?;
        }
        Ok(())
    }

    /// Removes the rows of parts, and the objects of those that have some.
    pub async fn remove_parts(&self, store: &str, parts: &[(i64, Option<Key>)]) -> Result<()> {
        for batch in parts.chunks(BATCH) {
            let (ids, keys): (Vec<_>, Vec<_>) = batch.iter().cloned().unzip();
            let keys: Vec<_> = keys.into_iter().flatten().collect();
            self.stores.get(store)?.delete(&keys).await?;
            self.meta.forget_parts(ids).await?;
        }
        Ok(())
    }

    /// Removes a blob in state `deleting` with all that it lies in. `false`: parts of it are still being written;
    /// they go when that ends, and the blob with the next call.
    pub async fn remove_blob(&self, blob_id: i64) -> Result<bool> {
        let Some(remains) = self.meta.remains(blob_id).await? else {
            return Ok(true);
        };
        let count = remains.parts.len();
        let mut idle = remains.parts;
        {
            let writing = self.writing();
            // Who writes them removes them, when it finds out that they are not wanted any more.
            idle.retain(|(id, _)| !writing.contains(id));
        }
        self.remove_parts(&remains.store, &idle).await?;
        if idle.len() < count {
            return Ok(false);
        }
        if let Some(key) = remains.object {
            self.erase(&remains.store, Kind::Blob, key, remains.part_size).await?;
        }
        Ok(self.meta.forget(Kind::Blob, blob_id).await?)
    }
}
