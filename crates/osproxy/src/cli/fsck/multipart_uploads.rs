//! Compares the multipart uploads of stores with the rows that name their objects.

use futures_util::TryStreamExt;
use osproxy_core::{Result, is_gone};
use osproxy_meta::{BlobRecord, BlobState, LostParts, PartRecord, PartState};
use osproxy_storage::{DigestSelection, ErrorKind, Key, ListedUpload, Multipart};

use super::checker::{Fsck, PAGE};

impl Fsck {
    /// Looks for multipart uploads that belong to no upload session.
    pub(super) async fn check_multipart_uploads(&mut self) -> Result<()> {
        let app = self.app.clone();
        let Some(multipart) = app.stores.get(&self.store)?.multipart() else {
            return Ok(());
        };
        let mut pages = multipart.list_uploads(None).await?.try_chunks(PAGE);
        while let Some(page) = pages.try_next().await.map_err(|error| error.1)? {
            let names: Vec<_> = page.iter().map(|upload| upload.name.clone()).collect();
            let blobs = app.meta.admin.blobs_by_key(&self.store, &names).await?;
            for upload in page {
                match blobs.get(&upload.name) {
                    // `--repair` does not abort the multipart upload: if the database is an old
                    // backup, the multipart upload may belong to an upload session that is newer
                    // than the backup.
                    None => {
                        let what =
                            format!("the multipart upload of {} is an orphan: no row names it", upload.name);
                        self.report_or_abort(&upload, what, self.options.delete_orphans).await;
                    }
                    // The process that began the multipart upload died before it recorded the
                    // upload.
                    Some(blobs) if blobs.iter().all(is_content) => {
                        let what =
                            format!("the multipart upload of {} belongs to no upload session", upload.name);
                        self.report_or_abort(&upload, what, self.options.repair).await;
                    }
                    // The multipart upload ends with the upload session, or when the blob is
                    // deleted.
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Reports a multipart upload; aborts it if `is_allowed`.
    async fn report_or_abort(&mut self, upload: &ListedUpload, what: String, is_allowed: bool) {
        if is_allowed {
            let outcome = self.abort(upload).await;
            self.report_repair(what, outcome);
        } else {
            self.report(what, false);
        }
    }

    async fn abort(&self, upload: &ListedUpload) -> Result<bool> {
        let Ok(key) = Key::parse(&upload.name) else {
            return Ok(false);
        };
        self.app.stores.multipart(&self.store)?.abort(&key, &upload.id).await?;
        Ok(true)
    }

    /// Checks the parts of an incomplete upload session that are in a multipart upload.
    pub(super) async fn check_multipart_parts(
        &mut self,
        blob: &BlobRecord,
        upload: &str,
        parts: &[PartRecord],
    ) -> Result<()> {
        // If the store has completed the upload but the result is not recorded yet, the object
        // exists and the multipart upload does not.
        let is_object = self.sizes.contains_key(&blob.object_key);
        if upload.is_empty() || is_object {
            return Ok(());
        }
        let key = Key::parse(&blob.object_key).map_err(osproxy_core::Error::internal)?;
        let multipart = self.app.stores.multipart(&self.store)?;
        let listed = match multipart.list_parts(&key, upload).await {
            Err(error) if error.kind == ErrorKind::NotFound => None,
            parts => Some(parts?),
        };
        if multipart.is_preallocated() {
            return self.check_preallocated(blob, upload, parts, listed.is_some()).await;
        }
        let upload_exists = listed.is_some();
        let listed = listed.unwrap_or_default();
        let is_stored = |part: &&PartRecord| part.state == PartState::Stored;
        let tagged = parts.iter().filter(is_stored).filter_map(|part| {
            let tag = part.tag.clone()?;
            Some((part.number.cast_unsigned(), tag))
        });
        let lost: Vec<_> = tagged.filter(|part| !listed.contains(part)).map(|(number, _)| number).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let what = format!("the store has lost parts {lost:?} of blob {}", blob.id);
        if self.options.repair {
            let lost = if upload_exists { LostParts::Parts(lost) } else { LostParts::Upload };
            self.app.meta.uploads.drop_lost_parts(blob.id, upload.to_owned(), lost).await?;
        }
        self.report(what, self.options.repair);
        Ok(())
    }

    /// Checks the parts in a preallocated file: all of them exist if the file exists. A deep check
    /// reads them: after a restore, the file may be newer than the metadata, and the space of a part
    /// that was replaced later is freed.
    async fn check_preallocated(
        &mut self,
        blob: &BlobRecord,
        upload: &str,
        parts: &[PartRecord],
        file_exists: bool,
    ) -> Result<()> {
        let is_in_file = |part: &&PartRecord| part.state.has_bytes() && part.tag.is_some();
        let lost = parts.iter().filter(is_in_file).count();
        if lost == 0 {
            return Ok(());
        }
        if file_exists {
            return self.check_slots(blob, upload).await;
        }
        if self.options.repair {
            self.app.meta.uploads.drop_lost_parts(blob.id, upload.to_owned(), LostParts::Upload).await?;
        }
        self.report(format!("{lost} parts of blob {} are lost", blob.id), self.options.repair);
        Ok(())
    }

    /// Reads the parts in a preallocated file and compares their digests, if the check is deep.
    async fn check_slots(&mut self, blob: &BlobRecord, upload: &str) -> Result<()> {
        if !self.options.deep {
            return Ok(());
        }
        let mut lost = Vec::new();
        for part in self.app.meta.blobs.parts(blob.id).await? {
            if part.is_own_object {
                continue;
            }
            let parts = std::slice::from_ref(&part);
            let is_intact = match self.app.stores.digest_parts(&self.store, parts, DigestSelection::MD5).await
            {
                Ok((found, _)) => found.first().is_some_and(|found| part.digests.matches(found)),
                Err(error) if is_gone(&error) => false,
                Err(error) => return Err(error),
            };
            if !is_intact {
                lost.push(part.number);
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        let what = format!("parts {lost:?} of blob {} are missing or have different content", blob.id);
        if self.options.repair {
            let lost = LostParts::Parts(lost);
            self.app.meta.uploads.drop_lost_parts(blob.id, upload.to_owned(), lost).await?;
        }
        self.report(what, self.options.repair);
        Ok(())
    }

    /// Checks the object of a completed multipart upload while a merge is still due. The object may
    /// contain only some of the parts.
    pub(super) async fn check_multipart_object(
        &mut self,
        blob: &BlobRecord,
        parts: &[PartRecord],
    ) -> Result<()> {
        if !parts.iter().any(|part| part.state == PartState::Stored && part.tag.is_some()) {
            return Ok(());
        }
        let mut stored = self.app.meta.blobs.parts(blob.id).await?;
        stored.retain(|part| !part.is_own_object);
        let Some(end) = stored.iter().map(|part| part.range().end).max() else {
            return Ok(());
        };
        let mut size = end.cast_signed();
        let what = format!("the multipart object of blob {} ({})", blob.id, blob.object_key);
        let actual = self.sizes.get(&blob.object_key).copied();
        if self.app.stores.multipart(&self.store).is_ok_and(Multipart::is_preallocated)
            && actual == Some(blob.size.unsigned_abs())
        {
            // Earlier versions did not cut off the space of the last parts if these are separate
            // objects.
            size = blob.size;
        }
        if !self.compare_size(&what, size, actual) || !self.options.deep {
            return Ok(());
        }
        let (digests_of_parts, _) =
            self.app.stores.digest_parts(&self.store, &stored, DigestSelection::MD5).await?;
        for (part, digests) in stored.iter().zip(digests_of_parts) {
            if !part.digests.matches(&digests) {
                self.report(format!("{what} has different content in part {}", part.number), false);
            }
        }
        Ok(())
    }
}

/// Whether a blob is stored and used by a file, so that its multipart upload must have ended.
fn is_content(blob: &BlobRecord) -> bool {
    matches!(blob.state, BlobState::Stored | BlobState::Quarantined) && blob.files > 0
}
