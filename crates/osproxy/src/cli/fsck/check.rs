use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt, TryStreamExt};
use osproxy_storage::{Digester, Digests, Key};

use super::{super::say, Options};
use crate::{
    Result,
    app::App,
    error,
    meta::{BlobState, Kind, PartState, RecordedBlob, RecordedLayout, RecordedPart, Unfinished},
    tasks::handlers::merge_parts,
};

/// How many blobs are looked at in one go.
const PAGE: u64 = 500;

/// A comparison of metadata and store. Nothing else uses either meanwhile.
pub(super) struct Check {
    app: Arc<App>,
    options: Options,
    /// Objects that no row was found for yet, with their sizes.
    unnamed: HashMap<String, u64>,
    pub(super) blobs: u64,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) found: u64,
    pub(super) repaired: u64,
}

impl Check {
    pub(super) fn new(app: Arc<App>, options: Options) -> Self {
        let (unnamed, blobs, objects, bytes, found, repaired) = (HashMap::new(), 0, 0, 0, 0, 0);
        Self { app, options, unnamed, blobs, objects, bytes, found, repaired }
    }

    pub(super) async fn run(&mut self) -> Result<()> {
        let mut objects = self.app.storage.list().await?;
        while let Some(object) = objects.try_next().await? {
            self.objects += 1;
            self.bytes += object.size;
            self.unnamed.insert(object.name, object.size);
        }
        let mut after = 0;
        loop {
            let page = self.app.meta.recorded_blobs(after, PAGE).await?;
            let Some(last) = page.last() else {
                break;
            };
            after = last.id;
            for blob in page {
                self.blobs += 1;
                self.blob(&blob).await?;
            }
        }
        for uid in self.app.meta.files_without_content().await? {
            self.difference(format!("file {uid} is complete and has no content"), false);
        }
        self.strays().await
    }

    /// Says a difference, and whether it is no more.
    fn difference(&mut self, what: String, repaired: bool) {
        self.found += 1;
        self.repaired += u64::from(repaired);
        say(&if repaired { format!("{what}: repaired") } else { what });
    }

    /// Says what came of a repair, if one was asked for.
    fn repaired(&mut self, what: String, outcome: Option<Result<bool>>) {
        match outcome {
            None => self.difference(what, false),
            Some(Ok(repaired)) => self.difference(what, repaired),
            Some(Err(error)) => {
                let why = error::chain(&error);
                self.difference(format!("{what}, and cannot be repaired ({why})"), false);
            }
        }
    }

    async fn blob(&mut self, blob: &RecordedBlob) -> Result<()> {
        match blob.state {
            BlobState::Stored => self.stored(blob).await,
            BlobState::Receiving if blob.uploads > 0 => self.receiving(blob).await,
            BlobState::Receiving => self.unused(blob, "collects parts for no file").await,
            BlobState::Writing => {
                self.unnamed.remove(&blob.object_key);
                let what = format!("blob {} was being written", blob.id);
                let unfinished =
                    Unfinished { kind: Kind::Blob, id: blob.id, object_key: blob.object_key.clone() };
                let outcome =
                    if self.options.repair { Some(self.app.discard(&unfinished).await) } else { None };
                self.repaired(what, outcome);
                Ok(())
            }
            BlobState::Deleting => self.unused(blob, "was being removed").await,
        }
    }

    async fn stored(&mut self, blob: &RecordedBlob) -> Result<()> {
        if blob.files == 0 {
            return self.unused(blob, "is content of no file").await;
        }
        if blob.refs != blob.files {
            let what = format!("blob {} counts {} files and has {}", blob.id, blob.refs, blob.files);
            if self.options.repair {
                self.app.meta.recount(blob.id, blob.files).await?;
            }
            self.difference(what, self.options.repair);
        }
        let parts = self.app.meta.recorded_parts(blob.id).await?;
        match blob.layout {
            RecordedLayout::Whole => self.whole(blob, &parts).await,
            RecordedLayout::Parts => self.parts(blob, &parts).await,
        }
    }

    /// Content in one object.
    async fn whole(&mut self, blob: &RecordedBlob, parts: &[RecordedPart]) -> Result<()> {
        let found = self.unnamed.remove(&blob.object_key);
        let what = format!("blob {} ({})", blob.id, blob.object_key);
        if self.compare(&what, blob.size, found) && self.options.deep {
            let read = self.read(&blob.object_key, blob.size).await;
            self.compare_digests(&what, read, |digests| Some(*digests) == blob.digests);
        }
        let left = parts.len();
        if left == 0 {
            return Ok(());
        }
        for part in parts {
            self.unnamed.remove(&part.object_key);
        }
        let outcome = if self.options.repair { Some(self.remove_parts(parts).await) } else { None };
        self.repaired(format!("blob {} is whole, and {left} parts of it are left", blob.id), outcome);
        Ok(())
    }

    async fn remove_parts(&self, parts: &[RecordedPart]) -> Result<bool> {
        let named = parts.iter().filter_map(|part| Some((part.id, Key::parse(&part.object_key).ok()?)));
        self.app.remove_parts(&named.collect::<Vec<_>>()).await?;
        Ok(true)
    }

    /// Complete content that waits to be merged.
    async fn parts(&mut self, blob: &RecordedBlob, parts: &[RecordedPart]) -> Result<()> {
        let (mut expected, mut size) = (1, 0);
        for part in parts {
            if part.state == PartState::Stored {
                if part.number != expected {
                    self.difference(format!("blob {} has no part {expected}", blob.id), false);
                }
                expected = part.number + 1;
                size += part.size;
            }
            self.part(blob, part).await?;
        }
        if size != blob.size {
            self.difference(format!("blob {} has {} bytes, its parts {size}", blob.id, blob.size), false);
        }
        let merge = merge_parts::merging(&self.app, self.app.next_uid().await?)(blob.id);
        if !self.app.meta.has_task(merge.kind, &merge.payload).await? {
            if self.options.repair {
                self.app.meta.enqueue(merge).await?;
            }
            let what = format!("blob {} lies in parts, and no task merges them", blob.id);
            self.difference(what, self.options.repair);
        }
        Ok(())
    }

    /// An upload that is not complete.
    async fn receiving(&mut self, blob: &RecordedBlob) -> Result<()> {
        for part in self.app.meta.recorded_parts(blob.id).await? {
            self.part(blob, &part).await?;
        }
        Ok(())
    }

    async fn part(&mut self, blob: &RecordedBlob, part: &RecordedPart) -> Result<()> {
        let found = self.unnamed.remove(&part.object_key);
        let what = format!("part {} of blob {} ({})", part.number, blob.id, part.object_key);
        if part.state != PartState::Stored {
            let unfinished =
                Unfinished { kind: Kind::Part, id: part.id, object_key: part.object_key.clone() };
            let outcome = if self.options.repair { Some(self.app.discard(&unfinished).await) } else { None };
            self.repaired(format!("{what} is not finished"), outcome);
            return Ok(());
        }
        if self.compare(&what, part.size, found) && self.options.deep {
            let read = self.read(&part.object_key, part.size).await;
            self.compare_digests(&what, read, |digests| part.md5.as_deref() == Some(&digests.md5));
        }
        Ok(())
    }

    /// A blob that no file has.
    async fn unused(&mut self, blob: &RecordedBlob, why: &str) -> Result<()> {
        self.unnamed.remove(&blob.object_key);
        for part in self.app.meta.recorded_parts(blob.id).await? {
            self.unnamed.remove(&part.object_key);
        }
        let outcome = if self.options.repair { Some(self.remove(blob.id).await) } else { None };
        self.repaired(format!("blob {} {why}", blob.id), outcome);
        Ok(())
    }

    async fn remove(&self, blob_id: i64) -> Result<bool> {
        Ok(self.app.meta.condemn_unused(blob_id).await? && self.app.remove_blob(blob_id).await?)
    }

    /// Whether an object is there in the size that is recorded. What is missing cannot be repaired here: it mends itself
    /// when somebody sends the same content again.
    fn compare(&mut self, what: &str, recorded: i64, found: Option<u64>) -> bool {
        match found {
            None => self.difference(format!("{what} has no object"), false),
            Some(size) if u64::try_from(recorded) != Ok(size) => {
                self.difference(format!("{what} has {size} bytes instead of {recorded}"), false);
            }
            Some(_) => return true,
        }
        false
    }

    fn compare_digests(&mut self, what: &str, read: Result<Digests>, fits: impl Fn(&Digests) -> bool) {
        match read {
            Ok(digests) if fits(&digests) => {}
            Ok(_) => self.difference(format!("{what} has other bytes than it had"), false),
            Err(error) => {
                self.difference(format!("{what} cannot be read ({})", error::chain(&error)), false);
            }
        }
    }

    async fn read(&self, object_key: &str, size: i64) -> Result<Digests> {
        let key = Key::parse(object_key).map_err(crate::Error::internal)?;
        let mut reader = self.app.storage.open(&key, 0..size.unsigned_abs()).await?;
        let mut digester = Digester::default();
        while let Some(bytes) = reader.next().await {
            digester.update(&bytes?);
        }
        Ok(digester.finish())
    }

    /// Objects that no row names.
    async fn strays(&mut self) -> Result<()> {
        let mut strays: Vec<_> = self.unnamed.drain().collect();
        strays.sort();
        for (name, size) in strays {
            let what = format!("object {name} ({size} bytes) is named by nothing");
            let deleted = match Key::parse(&name) {
                Ok(key) if self.options.delete_strays => {
                    self.app.storage.delete(&[key]).await?;
                    true
                }
                _ => false,
            };
            self.difference(what, deleted);
        }
        Ok(())
    }
}
