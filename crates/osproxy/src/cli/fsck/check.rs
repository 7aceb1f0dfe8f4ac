use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};
use osproxy_core::{App, Result};
use osproxy_meta::{
    BlobLayout, BlobRecord, BlobState, NewTask, ObjectRowKind, PartRecord, PartState, TaskKind,
};
use osproxy_storage::{DigestSelection, Digests, ErrorKind, Key, ListedObject};
use osproxy_types::error_chain;

use super::{super::print_line, FsckArgs};

/// Number of blobs or multipart uploads that are checked at a time. Memory is bounded by this, the
/// parts of one blob, and `LISTED`.
pub(super) const PAGE: usize = 500;
/// Number of listed objects that are looked up in the database at a time.
const LISTED: usize = 2000;
/// Number of concurrent requests to the store.
const AT_ONCE: usize = 64;

/// Which blobs to check. Unused blobs come last: if content is missing, they may contain its bytes,
/// and the first pass finds out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Used,
    Unused,
}

/// Comparison of metadata and stores, which nothing else uses meanwhile.
pub(super) struct Fsck {
    pub(super) app: Arc<App>,
    pub(super) options: FsckArgs,
    /// The store that is being checked.
    pub(super) store: String,
    /// Objects that several rows name, at least one of them as content, with the number of rows
    /// that name them as content.
    shared: HashMap<String, i64>,
    /// Sizes in bytes of the existing objects of the blobs on this page.
    pub(super) sizes: HashMap<String, u64>,
    /// Sizes of the part objects of the current blob.
    part_sizes: HashMap<String, u64>,
    /// Some file refers to content that does not exist: blobs that seem unused may belong to it.
    has_dangling_files: bool,
    /// Some content object is missing or has the wrong size: blobs that seem unused may have its
    /// bytes.
    has_missing_content: bool,
    pub(super) blobs: u64,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) found: u64,
    pub(super) repaired: u64,
}

impl Fsck {
    pub(super) fn new(app: Arc<App>, options: FsckArgs) -> Self {
        Self {
            app,
            options,
            store: String::new(),
            shared: HashMap::new(),
            sizes: HashMap::new(),
            part_sizes: HashMap::new(),
            has_dangling_files: false,
            has_missing_content: false,
            blobs: 0,
            objects: 0,
            bytes: 0,
            found: 0,
            repaired: 0,
        }
    }

    pub(super) async fn run(&mut self) -> Result<()> {
        for uid in self.app.meta.files_without_content().await? {
            self.has_dangling_files = true;
            self.report(format!("file {uid} is complete but has no content"), false);
        }
        for store in self.app.stores.names() {
            self.store = store;
            self.has_missing_content = false;
            self.check_store().await?;
        }
        Ok(())
    }

    async fn check_store(&mut self) -> Result<()> {
        self.shared = self.app.meta.shared_objects(&self.store).await?;
        let mut contended: Vec<_> =
            self.shared.iter().filter(|(_, count)| **count > 1).map(|(key, _)| key.clone()).collect();
        contended.sort();
        for key in contended {
            self.report(format!("object {key} is named by more than one row"), false);
        }
        self.check_orphans().await?;
        self.check_multipart_uploads().await?;
        self.check_blobs(Pass::Used).await?;
        self.check_blobs(Pass::Unused).await
    }

    async fn check_blobs(&mut self, pass: Pass) -> Result<()> {
        let mut after = 0;
        loop {
            let page = self.app.meta.blob_records(&self.store, after, PAGE as u64).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.id;
            if pass == Pass::Used {
                self.blobs += page.len() as u64;
                let keys = page.iter().map(|blob| blob.object_key.clone()).filter(|key| !key.is_empty());
                self.sizes = self.sizes_of(keys.collect()).await?;
            }
            for blob in &page {
                match (pass, is_unused(blob)) {
                    (Pass::Used, false) => self.check_blob(blob).await?,
                    (Pass::Used, true) => self.check_unused_content(blob).await?,
                    (Pass::Unused, false) => {}
                    (Pass::Unused, true) => self.check_unused(blob).await?,
                }
            }
        }
    }

    /// Asks the store for the sizes of objects and leaves out missing ones.
    async fn sizes_of(&self, keys: Vec<String>) -> Result<HashMap<String, u64>> {
        let store = self.app.stores.get(&self.store)?.clone();
        let sizes = stream::iter(keys).map(|name| {
            let store = store.clone();
            async move {
                let Ok(key) = Key::parse(&name) else {
                    return Ok(None);
                };
                match store.size(&key).await {
                    Ok(size) => Ok(Some((name, size))),
                    Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            }
        });
        let found = sizes.buffer_unordered(AT_ONCE).try_filter_map(|found| std::future::ready(Ok(found)));
        Ok(found.try_collect().await?)
    }

    /// Returns the parts of a blob and records the sizes of those that are objects.
    async fn parts_of(&mut self, blob: &BlobRecord) -> Result<Vec<PartRecord>> {
        let parts = self.app.meta.part_records(blob.id).await?;
        let objects = parts.iter().filter(|part| part.state == PartState::Stored && part.tag.is_none());
        self.part_sizes = self.sizes_of(objects.map(|part| part.object_key.clone()).collect()).await?;
        Ok(parts)
    }

    /// Checks whether the content of an unused blob exists.
    async fn check_unused_content(&mut self, blob: &BlobRecord) -> Result<()> {
        let parts = self.parts_of(blob).await?;
        let is_there = |sizes: &HashMap<String, u64>, key: &String, size: i64| {
            sizes.get(key).copied() == u64::try_from(size).ok()
        };
        if blob.state == BlobState::Stored && blob.layout == BlobLayout::Whole {
            self.has_missing_content |= !is_there(&self.sizes, &blob.object_key, blob.size);
        }
        let objects = parts.iter().filter(|part| part.state == PartState::Stored && part.tag.is_none());
        for part in objects {
            self.has_missing_content |= !is_there(&self.part_sizes, &part.object_key, part.size);
        }
        Ok(())
    }

    pub(super) fn report(&mut self, what: String, repaired: bool) {
        self.found += 1;
        self.repaired += u64::from(repaired);
        print_line(&if repaired { format!("{what}: repaired") } else { what });
    }

    /// Reports a difference with the result of its repair, if one was attempted.
    pub(super) fn report_repair(&mut self, what: String, outcome: Option<Result<bool>>) {
        match outcome {
            None => self.report(what, false),
            Some(Ok(repaired)) => self.report(what, repaired),
            Some(Err(error)) => {
                let why = error_chain(&error);
                self.report(format!("{what}; the repair failed ({why})"), false);
            }
        }
    }

    async fn check_blob(&mut self, blob: &BlobRecord) -> Result<()> {
        match blob.state {
            BlobState::Stored => self.check_stored(blob).await,
            BlobState::Receiving => self.check_incomplete_upload(blob).await,
            BlobState::Deleting => self.check_unused(blob).await,
            BlobState::Writing => {
                let what = format!("blob {} is an unfinished write", blob.id);
                self.discard_unfinished(what, ObjectRowKind::Blob, blob.id, &blob.object_key).await;
                Ok(())
            }
        }
    }

    /// Removes an object that is not content, unless another row names it as content.
    async fn discard_unfinished(&mut self, what: String, kind: ObjectRowKind, id: i64, object_key: &str) {
        if self.is_content_of_other_row(object_key, false) {
            return self
                .report(format!("{what}, and its object is content of another row ({object_key})"), false);
        }
        let safe = !self.has_dangling_files;
        let outcome = if self.options.repair && safe {
            Some(self.app.objects.delete_unreferenced(kind, id).await)
        } else {
            None
        };
        self.report_repair(what, outcome);
    }

    async fn check_stored(&mut self, blob: &BlobRecord) -> Result<()> {
        if blob.refs != blob.files {
            let what = format!("blob {} counts {} files but has {}", blob.id, blob.refs, blob.files);
            if self.options.repair {
                self.app.meta.set_ref_count(blob.id, blob.files).await?;
            }
            self.report(what, self.options.repair);
        }
        let parts = self.parts_of(blob).await?;
        match blob.layout {
            BlobLayout::Whole => self.check_whole(blob, &parts).await,
            BlobLayout::Parts => self.check_parts(blob, &parts).await,
        }
    }

    /// Checks content that is a single object.
    async fn check_whole(&mut self, blob: &BlobRecord, parts: &[PartRecord]) -> Result<()> {
        let found = self.sizes.get(&blob.object_key).copied();
        let what = format!("blob {} ({})", blob.id, blob.object_key);
        let mut intact = self.compare_size(&what, blob.size, found);
        if blob.digests.is_none() || blob.upload_id.is_some() || parts.iter().any(|part| part.tag.is_some()) {
            // A merge records its result before it removes the parts.
            let merge = self.task(TaskKind::MergeParts, blob).await?;
            if blob.digests.is_some() && self.app.meta.has_task(merge.kind, &merge.payload).await? {
                return Ok(());
            }
            // Not verified yet: a task must compare the object with what was received, or with what
            // the Go program recorded.
            let verify = self.task(TaskKind::VerifyBlob, blob).await?;
            return self.ensure_task(blob, verify, "is not verified, and no task verifies it").await;
        }
        if intact && (self.options.deep || !parts.is_empty()) {
            let wanted = blob.digests.map_or_else(DigestSelection::default, |known| known.selection());
            let read = self.read(&blob.object_key, blob.size, wanted).await;
            intact = self.compare_digests(&what, read, |digests| Some(*digests) == blob.digests);
        }
        if parts.is_empty() {
            return Ok(());
        }
        // The parts may be the only copy of the bytes.
        let safe = intact
            && !parts
                .iter()
                .any(|part| self.is_content_of_other_row(&part.object_key, part.state == PartState::Stored));
        let outcome = if self.options.repair && safe { Some(self.remove_parts(parts).await) } else { None };
        self.report_repair(
            format!("blob {} is merged, but {} of its parts remain", blob.id, parts.len()),
            outcome,
        );
        Ok(())
    }

    async fn remove_parts(&self, parts: &[PartRecord]) -> Result<bool> {
        let named = parts.iter().filter_map(|part| Some((part.id, Some(Key::parse(&part.object_key).ok()?))));
        self.app.objects.delete_parts(&self.store, &named.collect::<Vec<_>>()).await?;
        Ok(true)
    }

    /// Checks complete content that waits to be merged.
    async fn check_parts(&mut self, blob: &BlobRecord, parts: &[PartRecord]) -> Result<()> {
        let (mut expected, mut size) = (1, 0);
        for part in parts {
            if part.state == PartState::Stored {
                if part.number != expected {
                    self.report(format!("blob {} has no part {expected}", blob.id), false);
                }
                expected = part.number + 1;
                size += part.size;
            }
            self.check_part(blob, part).await?;
        }
        if blob.part_count.is_some_and(|count| count != expected - 1) {
            self.report(format!("blob {} is missing parts", blob.id), false);
        }
        if size != blob.size {
            self.report(
                format!("blob {} has {} bytes, but its parts have {size}", blob.id, blob.size),
                false,
            );
        }
        self.check_multipart_object(blob, parts).await?;
        let merge = self.task(TaskKind::MergeParts, blob).await?;
        self.ensure_task(blob, merge, "is in parts, and no task merges them").await
    }

    async fn task(&self, kind: TaskKind, blob: &BlobRecord) -> Result<NewTask> {
        let id = self.app.uids.next().await?;
        Ok(NewTask::for_blob(kind, id, blob.id, self.app.limits.max_task_attempts))
    }

    /// Reports a blob that has no such task, described by `otherwise`; with `--repair`, enqueues
    /// the task.
    async fn ensure_task(&mut self, blob: &BlobRecord, task: NewTask, otherwise: &str) -> Result<()> {
        if !self.app.meta.has_task(task.kind, &task.payload).await? {
            if self.options.repair {
                self.app.meta.enqueue(task, Some(self.store.clone())).await?;
            }
            self.report(format!("blob {} {otherwise}", blob.id), self.options.repair);
        }
        Ok(())
    }

    /// Checks an incomplete upload.
    async fn check_incomplete_upload(&mut self, blob: &BlobRecord) -> Result<()> {
        let parts = self.parts_of(blob).await?;
        for part in &parts {
            self.check_part(blob, part).await?;
        }
        match &blob.upload_id {
            Some(upload) => self.check_multipart_parts(blob, upload, &parts).await,
            None => Ok(()),
        }
    }

    async fn check_part(&mut self, blob: &BlobRecord, part: &PartRecord) -> Result<()> {
        let what = format!("part {} of blob {} ({})", part.number, blob.id, part.object_key);
        if part.state != PartState::Stored {
            self.discard_unfinished(
                format!("{what} is an unfinished write"),
                ObjectRowKind::Part,
                part.id,
                &part.object_key,
            )
            .await;
            return Ok(());
        }
        if part.tag.is_some() {
            return Ok(());
        }
        let found = self.part_sizes.get(&part.object_key).copied();
        if self.compare_size(&what, part.size, found) && self.options.deep {
            let read = self.read(&part.object_key, part.size, part.digests.selection()).await;
            self.compare_digests(&what, read, |digests| part.digests.matches(digests));
        }
        Ok(())
    }

    /// Checks a blob that belongs to no file.
    async fn check_unused(&mut self, blob: &BlobRecord) -> Result<()> {
        let why = match blob.state {
            BlobState::Deleting => "is marked for deletion",
            BlobState::Receiving => "receives parts for no file",
            _ => "is used by no file",
        };
        let is_content = blob.state == BlobState::Stored && blob.layout == BlobLayout::Whole;
        let has_object = blob.layout == BlobLayout::Whole || blob.upload_id.is_some();
        let own = has_object.then(|| (blob.object_key.clone(), is_content));
        let mut keys: Vec<_> = own.into_iter().collect();
        let parts = self.app.meta.part_records(blob.id).await?.into_iter();
        let parts = parts.filter(|part| part.tag.is_none());
        keys.extend(parts.map(|part| (part.object_key, part.state == PartState::Stored)));
        let may_be_needed =
            self.has_dangling_files || (self.has_missing_content && blob.state == BlobState::Stored);
        let safe =
            !may_be_needed && !keys.iter().any(|(key, counts)| self.is_content_of_other_row(key, *counts));
        let outcome = if self.options.repair && safe { Some(self.remove(blob.id).await) } else { None };
        self.report_repair(format!("blob {} {why}", blob.id), outcome);
        Ok(())
    }

    /// Whether another row names the object as content. Set `by_itself` if the current row also
    /// does.
    fn is_content_of_other_row(&self, key: &str, by_itself: bool) -> bool {
        self.shared.get(key).is_some_and(|count| *count > i64::from(by_itself))
    }

    async fn remove(&self, blob_id: i64) -> Result<bool> {
        Ok(self.app.meta.mark_unreferenced_deleting(blob_id).await?
            && self.app.objects.delete_blob(blob_id).await?)
    }

    /// Whether an object exists with the recorded size. Missing content cannot be repaired here; it
    /// is restored when a client uploads the same content again.
    pub(super) fn compare_size(&mut self, what: &str, recorded: i64, found: Option<u64>) -> bool {
        self.has_missing_content |= found != u64::try_from(recorded).ok();
        match found {
            None => self.report(format!("{what} has no object"), false),
            Some(size) if u64::try_from(recorded) != Ok(size) => {
                self.report(format!("{what} has {size} bytes instead of {recorded}"), false);
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
            Ok(_) => self.report(format!("{what} has different content than recorded"), false),
            Err(error) => {
                self.report(format!("{what} cannot be read ({})", error_chain(&error)), false);
            }
        }
        false
    }

    async fn read(&self, object_key: &str, size: i64, wanted: DigestSelection) -> Result<Digests> {
        let key = Key::parse(object_key).map_err(osproxy_core::Error::internal)?;
        self.app.stores.digest(&self.store, &key, 0..size.unsigned_abs(), wanted).await
    }

    /// Looks for orphans: objects of the store that no row names.
    async fn check_orphans(&mut self) -> Result<()> {
        let app = self.app.clone();
        let objects = app.stores.get(&self.store)?.list().await?;
        let mut pages = objects.try_chunks(LISTED);
        while let Some(page) = pages.try_next().await.map_err(|error| error.1)? {
            self.objects += page.len() as u64;
            self.bytes += page.iter().map(|object| object.size).sum::<u64>();
            let names: Vec<_> = page.iter().map(|object| object.name.clone()).collect();
            let known = app.meta.referenced_objects(&self.store, &names).await?;
            for object in page.iter().filter(|object| !known.contains(&object.name)) {
                self.handle_orphan(object).await?;
            }
        }
        Ok(())
    }

    async fn handle_orphan(&mut self, object: &ListedObject) -> Result<()> {
        let what = format!("object {} ({} bytes) is an orphan: no row names it", object.name, object.size);
        let deleted = match Key::parse(&object.name) {
            Ok(key) if self.options.delete_orphans => {
                self.app.stores.get(&self.store)?.delete(&[key]).await?;
                true
            }
            _ => false,
        };
        self.report(what, deleted);
        Ok(())
    }
}

fn is_unused(blob: &BlobRecord) -> bool {
    match blob.state {
        BlobState::Stored => blob.files == 0,
        BlobState::Receiving => blob.uploads == 0,
        BlobState::Deleting => true,
        BlobState::Writing => false,
    }
}
