//! What has to be done to rows and objects together, in this order and no other.

use futures_util::TryStreamExt;
use osproxy_storage::{Digester, Digests, ErrorKind, Key};

use super::App;
use crate::{
    Error, Result,
    meta::{Blob, Kind, StoredPart},
};

/// How many objects are removed at once.
const BATCH: usize = 500;

impl App {
    /// Whether the object of a blob is there in its full length. Content is shared only then: what was damaged behind
    /// osproxy's back must not swallow what clients send again.
    ///
    /// Of what lies with another node this is taken for granted: it alone can find out, and mend.
    pub async fn is_intact(&self, blob: &Blob) -> Result<bool> {
        if blob.backend != self.store {
            return Ok(true);
        }
        match self.storage.size(&blob.key).await {
            Ok(size) => Ok(size == blob.digests.size),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an object that is no content: decides it, removes the object that the row names, then the row, so that no
    /// object is ever without a row. `false` when it became content meanwhile, or is gone already. A crash in between
    /// leaves the row for the sweep.
    pub async fn discard(&self, kind: Kind, id: i64) -> Result<bool> {
        let Some(key) = self.meta.condemn(kind, id).await? else {
            return Ok(false);
        };
        let key = Key::parse(&key).map_err(Error::internal)?;
        self.storage.delete(&[key]).await?;
        self.meta.forget(kind, id).await?;
        Ok(true)
    }

    /// Reads an object and gives its digests, computed where they hold nobody up.
    pub async fn digest(&self, key: &Key, size: u64) -> Result<Digests> {
        let [own] = self.read_through(key, size, [Digester::default()]).await?;
        Ok(own.finish())
    }

    /// Reads parts and gives the digests of each, and of all of them one behind the other.
    pub async fn digest_parts(&self, parts: &[StoredPart]) -> Result<(Vec<Digests>, Digests)> {
        let (mut each, mut all) = (Vec::with_capacity(parts.len()), Digester::default());
        for part in parts {
            let [own, so_far] = self.read_through(&part.key, part.size, [Digester::default(), all]).await?;
            each.push(own.finish());
            all = so_far;
        }
        Ok((each, all.finish()))
    }

    async fn read_through<const N: usize>(
        &self,
        key: &Key,
        size: u64,
        mut digesters: [Digester; N],
    ) -> Result<[Digester; N]> {
        let mut object = self.storage.open(key, 0..size).await?;
        while let Some(bytes) = object.try_next().await? {
            let digesting = tokio::task::spawn_blocking(move || {
                for digester in &mut digesters {
                    digester.update(&bytes);
                }
                digesters
            });
            digesters = digesting.await.map_err(Error::internal)?;
        }
        Ok(digesters)
    }

    /// Removes the objects and rows of parts.
    pub async fn remove_parts(&self, parts: &[(i64, Key)]) -> Result<()> {
        for batch in parts.chunks(BATCH) {
            let (ids, keys): (Vec<_>, Vec<_>) = batch.iter().cloned().unzip();
            self.storage.delete(&keys).await?;
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
        self.remove_parts(&idle).await?;
        if idle.len() < count {
            return Ok(false);
        }
        if let Some(key) = remains.object {
            self.storage.delete(&[key]).await?;
        }
        Ok(self.meta.forget(Kind::Blob, blob_id).await?)
    }
}
