use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::TryStreamExt;
use osproxy_storage::{Digests, Key, Wanted};

use super::{super::say, Options};
use crate::{
    Result,
    app::App,
    error,
    meta::{BlobState, Kind, NewTask, PartState, RecordedBlob, RecordedLayout, RecordedPart},
    tasks::handlers::{merge_parts, verify_blob},
};

/// How many blobs are looked at in one go.
const PAGE: u64 = 500;

/// A comparison of metadata and store. Nothing else uses either meanwhile.
pub(super) struct Check {
    pub(super) app: Arc<App>,
    pub(super) options: Options,
    /// The store that is looked at.
    pub(super) store: String,
    /// Uploads of the store's that no row was found for yet: names of objects and of uploads.
    pub(super) uploads: HashSet<(String, String)>,
    /// Objects that no row was found for yet, with their sizes.
    pub(super) unnamed: HashMap<String, u64>,
    /// What is content by one row. No other row may make it go.
    content: HashSet<String>,
    /// What is content by more than one row.
    contended: HashSet<String>,
    /// Some file names content that is not there: what seems to be of no file may be its.
    dangling: bool,
    /// Some object that is content is not there, or not in its size: what seems unused may be its bytes.
    missing: bool,
    pub(super) blobs: u64,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) found: u64,
    pub(super) repaired: u64,
}

impl Check {
    pub(super) fn new(app: Arc<App>, options: Options) -> Self {
        Self {
            app,
            options,
            store: String::new(),
            uploads: HashSet::new(),
            unnamed: HashMap::new(),
            content: HashSet::new(),
            contended: HashSet::new(),
            dangling: false,
            missing: false,
            blobs: 0,
            objects: 0,
            bytes: 0,
            found: 0,
            repaired: 0,
        }
    }

    /// Compares everything, store by store.
    pub(super) async fn run(&mut self) -> Result<()> {
        for uid in self.app.meta.files_without_content().await? {
            self.dangling = true;
            self.difference(format!("file {uid} is complete and has no content"), false);
        }
        for store in self.app.stores.names() {
            self.store = store;
            (self.content, self.contended, self.missing) = Default::default();
            self.one_store().await?;
        }
        Ok(())
    }

    async fn one_store(&mut self) -> Result<()> {
        self.list_uploads().await?;
        let mut objects = self.app.stores.get(&self.store)?.list().await?;
        while let Some(object) = objects.try_next().await? {
            self.objects += 1;
            self.bytes += object.size;
            self.unnamed.insert(object.name, object.size);
        }
        for (key, size) in self.app.meta.content_objects(&self.store).await? {
            self.missing |= self.unnamed.get(&key).copied() != u64::try_from(size).ok();
            if !self.content.insert(key.clone()) && self.contended.insert(key.clone()) {
                self.difference(format!("object {key} is named by more than one row"), false);
            }
        }
        let mut after = 0;
        loop {
            let page = self.app.meta.recorded_blobs(&self.store, after, PAGE).await?;
            let Some(last) = page.last() else {
                break;
            };
            after = last.id;
            for blob in page {
                self.blobs += 1;
                self.blob(&blob).await?;
                self.further_uploads(&blob).await?;
            }
        }
        self.stray_uploads().await?;
        self.strays().await
    }

    /// Says a difference, and whether it is no more.
    pub(super) fn difference(&mut self, what: String, repaired: bool) {
        self.found += 1;
        self.repaired += u64::from(repaired);
        say(&if repaired { format!("{what}: repaired") } else { what });
    }

    /// Says what came of a repair, if one was asked for.
    pub(super) fn repaired(&mut self, what: String, outcome: Option<Result<bool>>) {
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
                let what = format!("blob {} was being written", blob.id);
                self.uploads.retain(|(name, _)| *name != blob.object_key);
                self.discard(what, Kind::Blob, blob.id, &blob.object_key).await;
                Ok(())
            }
            BlobState::Deleting => self.unused(blob, "was being removed").await,
        }
    }

    /// Removes an object that is no content, unless another row says that it is.
    async fn discard(&mut self, what: String, kind: Kind, id: i64, object_key: &str) {
        if self.content.contains(object_key) {
            return self.difference(format!("{what}, where other content lies ({object_key})"), false);
        }
        self.unnamed.remove(object_key);
        let safe = !self.dangling;
        let outcome = if self.options.repair && safe { Some(self.app.discard(kind, id).await) } else { None };
        self.repaired(what, outcome);
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
        let mut intact = self.compare(&what, blob.size, found);
        if blob.digests.is_none() || blob.upload_id.is_some() || parts.iter().any(|part| part.tag.is_some()) {
            for part in parts {
                self.unnamed.remove(&part.object_key);
            }
            // A task is to see whether it is what came, or what another program said that it is.
            let verify = verify_blob::verification(&self.app, self.app.next_uid().await?)(blob.id);
            return self.awaits(blob, verify, "was not verified, and no task does that").await;
        }
        if intact && (self.options.deep || !parts.is_empty()) {
            let wanted = blob.digests.map_or_else(Wanted::default, |known| known.wanted());
            let read = self.read(&blob.object_key, blob.size, wanted).await;
            intact = self.compare_digests(&what, read, |digests| Some(*digests) == blob.digests);
        }
        if parts.is_empty() {
            return Ok(());
        }
        for part in parts {
            self.unnamed.remove(&part.object_key);
        }
        // The parts may be all there is of the bytes.
        let safe = intact
            && !parts.iter().any(|part| self.of_others(&part.object_key, part.state == PartState::Stored));
        let outcome = if self.options.repair && safe { Some(self.remove_parts(parts).await) } else { None };
        self.repaired(
            format!("blob {} is whole, and {} parts of it are left", blob.id, parts.len()),
            outcome,
        );
        Ok(())
    }

    async fn remove_parts(&self, parts: &[RecordedPart]) -> Result<bool> {
        let named = parts.iter().filter_map(|part| Some((part.id, Some(Key::parse(&part.object_key).ok()?))));
        self.app.remove_parts(&self.store, &named.collect::<Vec<_>>()).await?;
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
        if blob.part_count.is_some_and(|count| count != expected - 1) {
            self.difference(format!("blob {} has not all of its parts", blob.id), false);
        }
        if size != blob.size {
            self.difference(format!("blob {} has {} bytes, its parts {size}", blob.id, blob.size), false);
        }
        self.put_together(blob, parts).await?;
        let merge = merge_parts::merging(&self.app, self.app.next_uid().await?)(blob.id);
        self.awaits(blob, merge, "lies in parts, and no task merges them").await
    }

    /// Sees to it that there is a task for a blob.
    async fn awaits(&mut self, blob: &RecordedBlob, task: NewTask, otherwise: &str) -> Result<()> {
        if !self.app.meta.has_task(task.kind, &task.payload).await? {
            if self.options.repair {
                self.app.meta.enqueue(task, Some(self.store.clone())).await?;
            }
            self.difference(format!("blob {} {otherwise}", blob.id), self.options.repair);
        }
        Ok(())
    }

    /// An upload that is not complete.
    async fn receiving(&mut self, blob: &RecordedBlob) -> Result<()> {
        let parts = self.app.meta.recorded_parts(blob.id).await?;
        for part in &parts {
            self.part(blob, part).await?;
        }
        match &blob.upload_id {
            Some(upload) => self.collecting(blob, upload, &parts).await,
            None => Ok(()),
        }
    }

    async fn part(&mut self, blob: &RecordedBlob, part: &RecordedPart) -> Result<()> {
        let what = format!("part {} of blob {} ({})", part.number, blob.id, part.object_key);
        if part.state != PartState::Stored {
            self.discard(format!("{what} is not finished"), Kind::Part, part.id, &part.object_key).await;
            return Ok(());
        }
        if part.tag.is_some() {
            return Ok(());
        }
        let found = self.unnamed.remove(&part.object_key);
        if self.compare(&what, part.size, found) && self.options.deep {
            let read = self.read(&part.object_key, part.size, part.known.wanted()).await;
            self.compare_digests(&what, read, |digests| part.known.is_of(digests));
        }
        Ok(())
    }

    /// A blob that no file has.
    async fn unused(&mut self, blob: &RecordedBlob, why: &str) -> Result<()> {
        let has_object = blob.layout == RecordedLayout::Whole || blob.upload_id.is_some();
        let own = has_object.then(|| (blob.object_key.clone(), blob.state == BlobState::Stored));
        let mut keys: Vec<_> = own.into_iter().collect();
        let parts = self.app.meta.recorded_parts(blob.id).await?.into_iter();
        let parts = parts.filter(|part| part.tag.is_none());
        self.uploads.retain(|(name, _)| *name != blob.object_key);
        keys.extend(parts.map(|part| (part.object_key, part.state == PartState::Stored)));
        let may_be_needed = self.dangling || (self.missing && blob.state == BlobState::Stored);
        let safe = !may_be_needed && !keys.iter().any(|(key, counts)| self.of_others(key, *counts));
        for (key, _) in &keys {
            self.unnamed.remove(key);
        }
        let outcome = if self.options.repair && safe { Some(self.remove(blob.id).await) } else { None };
        self.repaired(format!("blob {} {why}", blob.id), outcome);
        Ok(())
    }

    /// Whether an object is content by another row than the one that names it here, which may itself count as such.
    fn of_others(&self, key: &str, counts: bool) -> bool {
        if counts { self.contended.contains(key) } else { self.content.contains(key) }
    }

    async fn remove(&self, blob_id: i64) -> Result<bool> {
        Ok(self.app.meta.condemn_unused(blob_id).await? && self.app.remove_blob(blob_id).await?)
    }

    /// Whether an object is there in the size that is recorded. What is missing cannot be repaired here: it mends itself
    /// when somebody sends the same content again.
    pub(super) fn compare(&mut self, what: &str, recorded: i64, found: Option<u64>) -> bool {
        match found {
            None => self.difference(format!("{what} has no object"), false),
            Some(size) if u64::try_from(recorded) != Ok(size) => {
                self.difference(format!("{what} has {size} bytes instead of {recorded}"), false);
            }
            Some(_) => return true,
        }
        false
    }

    fn compare_digests(
        &mut self,
        what: &str,
        read: Result<Digests>,
        fits: impl Fn(&Digests) -> bool,
    ) -> bool {
        match read {
            Ok(digests) if fits(&digests) => return true,
            Ok(_) => self.difference(format!("{what} has other bytes than it had"), false),
            Err(error) => {
                self.difference(format!("{what} cannot be read ({})", error::chain(&error)), false);
            }
        }
        false
    }

    async fn read(&self, object_key: &str, size: i64, wanted: Wanted) -> Result<Digests> {
        let key = Key::parse(object_key).map_err(crate::Error::internal)?;
        self.app.stores.digest(&self.store, &key, 0..size.unsigned_abs(), wanted).await
    }

    /// Objects that no row names.
    async fn strays(&mut self) -> Result<()> {
        let mut strays: Vec<_> = self.unnamed.drain().collect();
        strays.sort();
        for (name, size) in strays {
            let what = format!("object {name} ({size} bytes) is named by nothing");
            let deleted = match Key::parse(&name) {
                Ok(key) if self.options.delete_strays => {
                    self.app.stores.get(&self.store)?.delete(&[key]).await?;
                    true
                }
                _ => false,
            };
            self.difference(what, deleted);
        }
        Ok(())
    }
}
