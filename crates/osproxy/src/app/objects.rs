//! What has to be done to rows and objects together, in this order and no other.

use std::ops::Range;

use futures_util::TryStreamExt;
use osproxy_storage::{Digester, Digests, ErrorKind, Key, ObjectWriter, Wanted};
use tokio::task::JoinHandle;

use super::App;
use crate::{
    Error, Result,
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
        let Some(Condemned { store, key }) = self.meta.condemn(kind, id).await? else {
            return Ok(false);
        };
        if let Some(key) = key {
            self.erase(&store, kind, key).await?;
        }
        self.meta.forget(kind, id).await?;
        Ok(true)
    }

    /// Removes what lies under the key of a row. An upload of the store's goes before the object that it could still become.
    async fn erase(&self, store: &str, kind: Kind, key: Key) -> Result<()> {
        if kind == Kind::Blob {
            self.abort_uploads(store, &key).await?;
        }
        Ok(self.stores.get(store)?.delete(&[key]).await?)
    }

    /// Drops all uploads in which a store, if it can, collects parts for a key.
    pub async fn abort_uploads(&self, store: &str, key: &Key) -> Result<()> {
        if let Some(multipart) = self.stores.get(store)?.multipart() {
            for (_, upload) in multipart.uploads(Some(key)).await? {
                multipart.abort(key, &upload).await?;
            }
        }
        Ok(())
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

    /// Reads an object and gives its digests, computed where they hold nobody up.
    pub async fn digest(&self, store: &str, key: &Key, size: u64, wanted: Wanted) -> Result<Digests> {
        let [own] = self.read_through(store, key, 0..size, [Digester::new(wanted)]).await?;
        Ok(own.finish())
    }

    /// Reads parts and gives the digests of each, those that are known of it, and of all of them one behind the other.
    pub async fn digest_parts(&self, store: &str, parts: &[StoredPart]) -> Result<(Vec<Digests>, Digests)> {
        let (mut each, mut all) = (Vec::with_capacity(parts.len()), Digester::default());
        for part in parts {
            let [own, so_far] = self
                .read_through(store, &part.key, part.range(), [Digester::new(part.known.wanted()), all])
                .await?;
            each.push(own.finish());
            all = so_far;
        }
        Ok((each, all.finish()))
    }

    async fn read_through<const N: usize>(
        &self,
        store: &str,
        key: &Key,
        range: Range<u64>,
        mut digesters: [Digester; N],
    ) -> Result<[Digester; N]> {
        let mut object = self.stores.get(store)?.open(key, range).await?;
        let mut digesting: Option<JoinHandle<[Digester; N]>> = None;
        // The next bytes come while the ones before are digested.
        while let Some(bytes) = object.try_next().await? {
            if let Some(before) = digesting.take() {
                digesters = before.await.map_err(Error::internal)?;
            }
            let mut busy = digesters.clone();
            digesting = Some(tokio::task::spawn_blocking(move || {
                for digester in &mut busy {
                    digester.update(&bytes);
                }
                busy
            }));
        }
        match digesting {
            Some(last) => last.await.map_err(Error::internal),
            None => Ok(digesters),
        }
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
            self.erase(&remains.store, Kind::Blob, key).await?;
        }
        Ok(self.meta.forget(Kind::Blob, blob_id).await?)
    }
}
