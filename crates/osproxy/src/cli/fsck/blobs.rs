//! Checks of blobs: their content, reference counts and tasks.

use std::collections::HashMap;

use osproxy_core::Result;
use osproxy_meta::{
    BlobLayout, BlobRecord, BlobState, NewTask, ObjectRowKind, PartRecord, PartState, TaskKind,
};
use osproxy_storage::DigestSelection;

use super::checker::{Fsck, PAGE};

/// The blobs that a pass checks. The first pass also finds out whether content is missing. If so,
/// the second pass keeps unused blobs, because they may contain the missing bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    Used,
    Unused,
}

impl Fsck {
    /// Checks the blobs of the store that `pass` selects.
    pub(super) async fn check_blobs(&mut self, pass: Pass) -> Result<()> {
        let mut after = 0;
        loop {
            let page = self.app.meta.admin.blob_records(&self.store, after, PAGE as u64).await?;
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

    async fn check_blob(&mut self, blob: &BlobRecord) -> Result<()> {
        match blob.state {
            BlobState::Stored | BlobState::Quarantined => self.check_stored(blob).await,
            BlobState::Receiving => self.check_incomplete_upload(blob).await,
            BlobState::Deleting => self.check_unused(blob).await,
            BlobState::Writing => {
                let what = format!("blob {} is an unfinished write", blob.id);
                self.discard_unfinished(what, ObjectRowKind::Blob, blob.id, &blob.object_key).await;
                Ok(())
            }
        }
    }

    async fn check_stored(&mut self, blob: &BlobRecord) -> Result<()> {
        if blob.refs != blob.files {
            let what = format!("blob {} counts {} files but has {}", blob.id, blob.refs, blob.files);
            if self.options.repair {
                self.app.meta.admin.set_ref_count(blob.id, blob.files).await?;
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
        let size = self.sizes.get(&blob.object_key).copied();
        let what = format!("blob {} ({})", blob.id, blob.object_key);
        let mut is_intact = self.compare_size(&what, blob.size, size);
        let has_stored_slot = parts.iter().any(|part| part.state == PartState::Stored && part.tag.is_some());
        if blob.state == BlobState::Quarantined {
            // Its digests are not recorded, so that nobody can share it.
            return Ok(());
        }
        if blob.digests.is_none() || blob.upload_id.is_some() || has_stored_slot {
            // A merge records the digests before it removes the parts. If the merge is unfinished,
            // its task will still remove the parts.
            let merge = self.task(TaskKind::MergeParts, blob).await?;
            if blob.digests.is_some()
                && self.app.meta.tasks.has_unfinished(merge.kind, &merge.payload).await?
            {
                return Ok(());
            }
            // Not verified yet: a task must compute the digests of the object and compare them with
            // the expected digests.
            let verify = self.task(TaskKind::VerifyBlob, blob).await?;
            return self.ensure_task(blob, verify, "is not verified, and no task verifies it").await;
        }
        if is_intact && (self.options.deep || !parts.is_empty()) {
            let selection = blob.digests.map_or_else(DigestSelection::default, |digests| digests.selection());
            let read = self.read(&blob.object_key, blob.size, selection).await;
            is_intact = self.compare_digests(&what, read, |digests| Some(*digests) == blob.digests);
        }
        if parts.is_empty() {
            return Ok(());
        }
        // The parts are removed only if the object is intact: otherwise the parts may be the only
        // copy.
        let is_safe = is_intact
            && !parts
                .iter()
                .any(|part| self.is_content_of_other_row(&part.object_key, part.state == PartState::Stored));
        let what = format!("blob {} is merged, but {} of its parts remain", blob.id, parts.len());
        if self.options.repair && is_safe {
            let outcome = self.remove_parts(parts).await;
            self.report_repair(what, outcome);
        } else {
            self.report(what, false);
        }
        Ok(())
    }

    /// Checks whether the content of an unused blob exists.
    async fn check_unused_content(&mut self, blob: &BlobRecord) -> Result<()> {
        let parts = self.parts_of(blob).await?;
        let is_intact = |sizes: &HashMap<String, u64>, key: &String, size: i64| {
            sizes.get(key).copied() == u64::try_from(size).ok()
        };
        if has_content(blob.state) && blob.layout == BlobLayout::Whole {
            self.has_missing_content |= !is_intact(&self.sizes, &blob.object_key, blob.size);
        }
        let objects = parts.iter().filter(|part| part.state == PartState::Stored && part.tag.is_none());
        for part in objects {
            self.has_missing_content |= !is_intact(&self.part_sizes, &part.object_key, part.size);
        }
        Ok(())
    }

    /// Checks a blob that belongs to no file.
    async fn check_unused(&mut self, blob: &BlobRecord) -> Result<()> {
        let why = match blob.state {
            BlobState::Deleting => "is marked for deletion",
            BlobState::Receiving => "is an incomplete upload that belongs to no file",
            _ => "is used by no file",
        };
        let is_content = has_content(blob.state) && blob.layout == BlobLayout::Whole;
        let has_object = blob.layout == BlobLayout::Whole || blob.upload_id.is_some();
        // Keys of the blob's objects, and whether the blob names them as content.
        let mut keys: Vec<_> =
            has_object.then(|| (blob.object_key.clone(), is_content)).into_iter().collect();
        let parts = self.app.meta.admin.part_records(blob.id).await?.into_iter();
        let parts = parts.filter(|part| part.tag.is_none());
        keys.extend(parts.map(|part| (part.object_key, part.state == PartState::Stored)));
        let may_be_needed = self.has_dangling_files || (self.has_missing_content && has_content(blob.state));
        let is_safe = !may_be_needed
            && !keys.iter().any(|(key, is_content)| self.is_content_of_other_row(key, *is_content));
        let what = format!("blob {} {why}", blob.id);
        if self.options.repair && is_safe {
            let outcome = self.remove(blob.id).await;
            self.report_repair(what, outcome);
        } else {
            self.report(what, false);
        }
        Ok(())
    }

    async fn remove(&self, blob_id: i64) -> Result<bool> {
        Ok(self.app.meta.admin.mark_unreferenced_deleting(blob_id).await?
            && self.app.objects.delete_blob(blob_id).await?)
    }

    /// Reports the object of an unfinished write. With `--repair`, deletes the object and its row,
    /// unless another row names the object as content or some file has lost its content.
    pub(super) async fn discard_unfinished(
        &mut self,
        what: String,
        kind: ObjectRowKind,
        id: i64,
        object_key: &str,
    ) {
        if self.is_content_of_other_row(object_key, false) {
            return self
                .report(format!("{what}, and its object is content of another row ({object_key})"), false);
        }
        if self.options.repair && !self.has_dangling_files {
            let outcome = self.app.objects.delete_unreferenced(kind, id).await;
            self.report_repair(what, outcome);
        } else {
            self.report(what, false);
        }
    }

    /// Creates a task for a blob without enqueuing the task.
    pub(super) async fn task(&self, kind: TaskKind, blob: &BlobRecord) -> Result<NewTask> {
        let id = self.app.uids.next().await?;
        Ok(NewTask::for_blob(kind, id, blob.id, self.app.limits.max_task_attempts))
    }

    /// Reports `problem` if the blob has no queued, running or dead task of this kind. With
    /// `--repair`, then enqueues `task`.
    pub(super) async fn ensure_task(
        &mut self,
        blob: &BlobRecord,
        task: NewTask,
        problem: &str,
    ) -> Result<()> {
        if !self.app.meta.tasks.has_unfinished(task.kind, &task.payload).await? {
            if self.options.repair {
                self.app.meta.tasks.enqueue(task, Some(self.store.clone())).await?;
            }
            self.report(format!("blob {} {problem}", blob.id), self.options.repair);
        }
        Ok(())
    }
}

/// Whether a blob in this state is complete content.
fn has_content(state: BlobState) -> bool {
    matches!(state, BlobState::Stored | BlobState::Quarantined)
}

fn is_unused(blob: &BlobRecord) -> bool {
    match blob.state {
        BlobState::Stored | BlobState::Quarantined => blob.files == 0,
        BlobState::Receiving => blob.uploads == 0,
        BlobState::Deleting => true,
        BlobState::Writing => false,
    }
}
