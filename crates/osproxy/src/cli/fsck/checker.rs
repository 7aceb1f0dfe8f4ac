//! The state of a check, and functions that its steps share: reports, sizes and digests.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};
use osproxy_core::{App, Result};
use osproxy_meta::{FileToProcess, RescanFilter};
use osproxy_storage::{DigestSelection, Digests, ErrorKind, Key};
use osproxy_types::error_chain;

use super::{super::print_line, FsckArgs, blobs::Pass};

/// Number of blobs or multipart uploads that are checked at a time. Memory use depends on this
/// number, on the parts of one blob, and on the size of a page of listed objects.
pub(super) const PAGE: usize = 500;
/// Number of concurrent requests to the store.
const CONCURRENT_REQUESTS: usize = 64;

/// Compares metadata with the stores. No service may use the database or the stores meanwhile.
pub(super) struct Fsck {
    pub(super) app: Arc<App>,
    pub(super) options: FsckArgs,
    /// The store that is being checked.
    pub(super) store: String,
    /// Keys of objects that several rows name, at least one row as content. The value is the number
    /// of rows that name the object as content.
    shared: HashMap<String, i64>,
    /// Sizes of the existing objects of the blobs on this page, in bytes.
    pub(super) sizes: HashMap<String, u64>,
    /// Sizes of the part objects of the current blob, in bytes.
    pub(super) part_sizes: HashMap<String, u64>,
    /// Whether some file refers to content that does not exist. Blobs that seem unused may be this
    /// content.
    pub(super) has_dangling_files: bool,
    /// Whether a content object in this store is missing or has the wrong size. Blobs that seem
    /// unused may have the missing bytes.
    pub(super) has_missing_content: bool,
    pub(super) blobs: u64,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// Number of differences that were found.
    pub(super) differences: u64,
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
            differences: 0,
            repaired: 0,
        }
    }

    pub(super) async fn run(&mut self) -> Result<()> {
        for uid in self.app.meta.admin.files_without_content().await? {
            self.has_dangling_files = true;
            self.report(format!("file {uid} is complete but has no content"), false);
        }
        for store in self.app.stores.names() {
            self.store = store;
            self.has_missing_content = false;
            self.check_store().await?;
        }
        self.check_waiting_files().await?;
        self.check_keys().await
    }

    /// Checks that a task will give a verdict about each file that waits for one.
    async fn check_waiting_files(&mut self) -> Result<()> {
        let app = self.app.clone();
        // The steps that were configured when the file was uploaded are not known any more.
        let required = Some(app.meta.processing.policy().clone()).filter(|it| !it.blocking.is_empty());
        let mut filter = RescanFilter::default();
        loop {
            let page = app.meta.processing.waiting(filter.clone(), PAGE as u64).await?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            filter.after = Some(*last);
            for (uid, blob_id) in page {
                if app.meta.processing.has_task(uid).await? {
                    continue;
                }
                if self.options.repair {
                    let file = FileToProcess { uid, blob_id, task_id: app.uids.next().await? };
                    app.meta.processing.judge_waiting(vec![file], required.clone()).await?;
                }
                let what = format!("file {uid} waits for a verdict, and no task processes it");
                self.report(what, self.options.repair);
            }
        }
    }

    async fn check_store(&mut self) -> Result<()> {
        self.shared = self.app.meta.admin.shared_objects(&self.store).await?;
        let mut shared_keys: Vec<_> =
            self.shared.iter().filter(|(_, count)| **count > 1).map(|(key, _)| key.clone()).collect();
        shared_keys.sort();
        for key in shared_keys {
            self.report(format!("object {key} is named by more than one row"), false);
        }
        self.check_orphans().await?;
        self.check_multipart_uploads().await?;
        self.check_blobs(Pass::Used).await?;
        self.check_blobs(Pass::Unused).await
    }

    /// Returns the sizes of objects in bytes. Leaves out objects that do not exist.
    pub(super) async fn sizes_of(&self, keys: Vec<String>) -> Result<HashMap<String, u64>> {
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
        let existing =
            sizes.buffer_unordered(CONCURRENT_REQUESTS).try_filter_map(|size| std::future::ready(Ok(size)));
        Ok(existing.try_collect().await?)
    }

    /// Prints and counts a difference.
    pub(super) fn report(&mut self, what: String, repaired: bool) {
        self.differences += 1;
        self.repaired += u64::from(repaired);
        print_line(&if repaired { format!("{what}: repaired") } else { what });
    }

    /// Reports a difference after an attempt to repair it. `outcome` is whether the attempt
    /// succeeded.
    pub(super) fn report_repair(&mut self, what: String, outcome: Result<bool>) {
        match outcome {
            Ok(repaired) => self.report(what, repaired),
            Err(error) => {
                let why = error_chain(&error);
                self.report(format!("{what}; the repair failed ({why})"), false);
            }
        }
    }

    /// Whether a row other than the current one names the object as content. Set `is_own_content`
    /// if the current row also names it as content.
    pub(super) fn is_content_of_other_row(&self, key: &str, is_own_content: bool) -> bool {
        self.shared.get(key).is_some_and(|count| *count > i64::from(is_own_content))
    }

    /// Returns whether an object has the recorded size. If not, reports the difference. Missing
    /// content cannot be repaired here; it is restored when a client uploads the same content
    /// again.
    pub(super) fn compare_size(&mut self, what: &str, recorded: i64, actual: Option<u64>) -> bool {
        self.has_missing_content |= actual != u64::try_from(recorded).ok();
        match actual {
            None => self.report(format!("{what} has no object"), false),
            Some(size) if u64::try_from(recorded) != Ok(size) => {
                self.report(format!("{what} has {size} bytes instead of {recorded}"), false);
            }
            Some(_) => return true,
        }
        false
    }

    /// Returns whether the object that was read has the recorded digests. If not, or if reading
    /// failed, reports that.
    pub(super) fn compare_digests(
        &mut self,
        what: &str,
        read: Result<Digests>,
        matches: impl Fn(&Digests) -> bool,
    ) -> bool {
        match read {
            Ok(digests) if matches(&digests) => return true,
            Ok(_) => self.report(format!("{what} has different content than recorded"), false),
            Err(error) => {
                self.report(format!("{what} cannot be read ({})", error_chain(&error)), false);
            }
        }
        false
    }

    /// Reads an object and computes its digests.
    pub(super) async fn read(
        &self,
        object_key: &str,
        size: i64,
        selection: DigestSelection,
    ) -> Result<Digests> {
        let key = Key::parse(object_key).map_err(osproxy_core::Error::internal)?;
        self.app.stores.digest(&self.store, &key, 0..size.unsigned_abs(), selection).await
    }
}
