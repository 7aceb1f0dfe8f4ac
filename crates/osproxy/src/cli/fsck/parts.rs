//! Checks the parts of content that waits to be merged, and of incomplete uploads.

use osproxy_core::Result;
use osproxy_meta::{BlobRecord, BlobState, ObjectRowKind, PartRecord, PartState, TaskKind};
use osproxy_storage::Key;

use super::checker::Fsck;

impl Fsck {
    /// Returns the parts of a blob, and records the sizes of the parts that are separate objects.
    pub(super) async fn parts_of(&mut self, blob: &BlobRecord) -> Result<Vec<PartRecord>> {
        let parts = self.app.meta.admin.part_records(blob.id).await?;
        let objects = parts.iter().filter(|part| part.state.has_bytes() && part.tag.is_none());
        self.part_sizes = self.sizes_of(objects.map(|part| part.object_key.clone()).collect()).await?;
        Ok(parts)
    }

    /// Checks complete content that waits to be merged.
    pub(super) async fn check_parts(&mut self, blob: &BlobRecord, parts: &[PartRecord]) -> Result<()> {
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
        if blob.state == BlobState::Quarantined {
            // Released content is merged.
            return Ok(());
        }
        let merge = self.task(TaskKind::MergeParts, blob).await?;
        self.ensure_task(blob, merge, "is in parts, and no task merges them").await
    }

    /// Checks an incomplete upload.
    pub(super) async fn check_incomplete_upload(&mut self, blob: &BlobRecord) -> Result<()> {
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
        if part.state == PartState::Writing && part.size > 0 {
            // Its first bytes were durable before this write began, and stay.
            if self.options.repair {
                self.app.meta.blobs.mark_deleting(ObjectRowKind::Part, part.id).await?;
            }
            let what = format!("{what} is an unfinished write after {} bytes", part.size);
            self.report(what, self.options.repair);
            return Ok(());
        }
        if !part.state.has_bytes() {
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
        let size = self.part_sizes.get(&part.object_key).copied();
        if self.compare_size(&what, part.size, size) && self.options.deep {
            let read = self.read(&part.object_key, part.size, part.digests.selection()).await;
            self.compare_digests(&what, read, |digests| part.digests.matches(digests));
        }
        Ok(())
    }

    /// Deletes parts and their objects.
    pub(super) async fn remove_parts(&self, parts: &[PartRecord]) -> Result<bool> {
        let objects =
            parts.iter().filter_map(|part| Some((part.id, Some(Key::parse(&part.object_key).ok()?))));
        self.app.objects.delete_parts(&self.store, &objects.collect::<Vec<_>>()).await?;
        Ok(true)
    }
}
