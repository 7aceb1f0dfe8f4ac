//! Multipart uploads of the stores. Keeps the metadata consistent with the store when a multipart
//! upload starts, completes or is lost.

use std::time::Duration;

use osproxy_meta::{
    CompleteOutcome, CompletePreconditions, FileState, InspectionResult, LostParts, MultipartSlot,
    MultipartUpload,
};
use osproxy_storage::{ErrorKind, Key};
use osproxy_types::{error_chain, tenant::Tenant, uid::Uid};
use tokio::sync::Mutex;

use super::Objects;
use crate::{Error, Result};

/// Maximum lookups of an object after its multipart upload was found missing. After that, the parts
/// count as lost. Some stores remove a multipart upload before its object becomes visible.
const LOOKUPS: u32 = 5;
/// Pause after each of these lookups.
const PAUSE: Duration = Duration::from_millis(500);

/// Maximum attempts if parts change while they are inspected.
const MAX_TRIES: usize = 3;

/// Striped locks by id. Ids with the same stripe wait for each other.
pub(super) struct StripedLocks([Mutex<()>; 64]);

impl Default for StripedLocks {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl StripedLocks {
    pub(super) fn lock_for(&self, id: i64) -> &Mutex<()> {
        // Mix the bits, so that all stripes are used. The low bits of a uid alone vary too little:
        // they are a counter within a millisecond, and the worker id.
        let mixed = id.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        let [first, ..] = &self.0;
        usize::try_from(mixed).ok().and_then(|at| self.0.get(at)).unwrap_or(first)
    }
}

/// Locks that keep a node from doing something twice at the same time.
#[derive(Default)]
pub(crate) struct ObjectLocks {
    /// Starts of multipart uploads, by blob id.
    upload_starts: StripedLocks,
    /// Deletions of parts in growing files, by the id of the part.
    pub(super) slot_deletions: StripedLocks,
}

/// Result of completing a multipart upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MultipartOutcome {
    /// The object exists.
    Completed,
    /// The store has lost or rejected parts. The client can send them again.
    PartsLost,
}

impl Objects {
    /// Returns the id that the store gave to the multipart upload of a blob. Starts the multipart
    /// upload if necessary. Returns `None` if the blob no longer accepts parts.
    pub async fn ensure_multipart_upload(
        &self,
        store: &str,
        blob_id: i64,
        slot: &MultipartSlot,
        tenant: &Tenant,
    ) -> Result<Option<String>> {
        if slot.upload_id.is_some() {
            return Ok(slot.upload_id.clone());
        }
        let multipart = self.stores.multipart(store)?;
        // If several parts arrive at this node at the same time, only one of them starts the
        // multipart upload. Another node may start a duplicate.
        let _beginning = self.locks.upload_starts.lock_for(blob_id).lock().await;
        if let Some(named) = self.meta.uploads.upload_id(blob_id).await? {
            return Ok(Some(named));
        }
        let may_reserve = match slot.layout {
            Some(shape) if multipart.is_preallocated() => {
                self.admission.try_reserve(tenant, shape.size).await?
            }
            _ => true,
        };
        let begun = match (slot.layout, slot.slot_size) {
            (Some(layout), _) if !may_reserve => multipart.begin_unreserved(&slot.key, layout).await?,
            (None, Some(slot_size)) => multipart.begin_growing(&slot.key, slot_size).await?,
            (layout, _) => multipart.begin(&slot.key, layout).await?,
        };
        let named = self.meta.uploads.record_upload_id(blob_id, begun.clone()).await?;
        if named.as_ref() != Some(&begun)
            // If this fails, the duplicate stays until the blob is verified or deleted: the
            // verification and the deletion abort all multipart uploads for the key of the blob.
            && let Err(error) = multipart.abort(&slot.key, &begun).await
        {
            tracing::warn!(
                blob_id,
                error = error_chain(&error),
                "cannot abort a duplicate multipart upload yet"
            );
        }
        Ok(named)
    }

    /// Creates the preallocated file for announced content, if the store for new files preallocates
    /// files. Reserves the disk space of the file, unless the limits on reserved space are reached.
    /// Fails with `StorageFull` if the disk does not have enough space.
    pub async fn preallocate(&self, uid: Uid, tenant: &Tenant) -> Result<()> {
        if !self.stores.preallocates() {
            return Ok(());
        }
        let Some((store, blob_id, place)) =
            self.meta.uploads.preallocate(uid, self.uids.next().await?).await?
        else {
            return Ok(());
        };
        self.ensure_multipart_upload(&store, blob_id, &place, tenant).await?;
        Ok(())
    }

    /// Returns the size in bytes of an object that another request may be creating now; `None` if
    /// the object does not appear in time.
    async fn wait_for_object(&self, store: &str, key: &Key) -> Result<Option<u64>> {
        for _ in 0..LOOKUPS {
            match self.stores.get(store)?.size(key).await {
                Ok(size) => return Ok(Some(size)),
                Err(absent) if absent.kind == ErrorKind::NotFound => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Checks whether the store has lost a multipart upload. Call this after the store has refused
    /// a part. If the multipart upload is lost, resets the upload, so that the client can send all
    /// parts again, and returns `true`. An upload that was completed or aborted is not lost.
    pub async fn reset_if_lost(&self, store: &str, blob_id: i64, key: &Key, upload: &str) -> Result<bool> {
        match self.stores.multipart(store)?.list_parts(key, upload).await {
            Err(error) if error.kind == ErrorKind::NotFound => {
                let is_lost = self.meta.uploads.drop_lost_upload(blob_id, upload.to_owned()).await?;
                if is_lost {
                    tracing::error!(
                        blob_id,
                        "the store has lost a multipart upload; its parts must be sent again"
                    );
                }
                Ok(is_lost)
            }
            // The upload exists, or the lookup failed.
            _ => Ok(false),
        }
    }

    /// Completes a multipart upload, so that its parts become one object. Idempotent.
    async fn complete_multipart(&self, upload: &MultipartUpload) -> Result<MultipartOutcome> {
        let MultipartUpload { blob_id, store, key, upload_id: upload, parts, size } = upload;
        let multipart = self.stores.multipart(store)?;
        let Err(problem) = multipart.complete(key, upload, parts, *size).await else {
            return Ok(MultipartOutcome::Completed);
        };
        let present = multipart.list_parts(key, upload).await;
        let lost = match (problem.kind, present) {
            // Either an earlier call completed the upload and its response was lost, or the store
            // has lost the upload.
            (_, Err(gone)) if gone.kind == ErrorKind::NotFound => {
                match self.wait_for_object(store, key).await? {
                    Some(found) if found == *size => return Ok(MultipartOutcome::Completed),
                    Some(found) => {
                        let what = format!("{key} has {found} bytes, its parts have {size}");
                        return Err(Error::internal(what));
                    }
                    None => LostParts::Upload,
                }
            }
            (ErrorKind::Mismatch, Ok(there)) => {
                let differs = |part: &&(u32, String)| !there.contains(part);
                let lost: Vec<_> = parts.iter().filter(differs).map(|(number, _)| *number).collect();
                if lost.is_empty() { LostParts::Rejected } else { LostParts::Parts(lost) }
            }
            // A concurrent call may have completed the upload in the meantime. A retry finds out.
            _ => return Err(problem.into()),
        };
        tracing::error!(
            blob_id,
            ?lost,
            error = error_chain(&problem),
            "the store has lost parts; they must be sent again"
        );
        self.meta.uploads.drop_lost_parts(*blob_id, upload.clone(), lost).await?;
        Ok(MultipartOutcome::PartsLost)
    }

    /// Completes the multipart upload in the store, then the file. Returns `NotOpen` if parts were
    /// lost or the file is no longer being completed, and `DigestMismatch` or `TypeMismatch` if the
    /// file is now corrupt. Idempotent: can run again after an error, or several times
    /// concurrently. `inspected` is the result of reading the parts, if they were read before.
    pub async fn finish_completion(
        &self,
        uid: Uid,
        upload: &MultipartUpload,
        inspected: Option<InspectionResult>,
    ) -> Result<CompleteOutcome> {
        if self.complete_multipart(upload).await? == MultipartOutcome::PartsLost {
            return Ok(CompleteOutcome::NotOpen(FileState::Receiving));
        }
        let task_id = self.uids.next().await?;
        let mut conditions = CompletePreconditions {
            max_inline_verification_size: self.limits.max_inline_verification_size,
            inspected,
            ..CompletePreconditions::default()
        };
        for _ in 0..MAX_TRIES {
            let completed =
                self.meta.uploads.finish_multipart(uid, upload.blob_id, conditions.clone(), task_id);
            match completed.await? {
                CompleteOutcome::NeedsInspection(inspection) => {
                    conditions.inspected = self.inspect(&inspection).await?;
                }
                completed => {
                    if let CompleteOutcome::DigestMismatch(..) | CompleteOutcome::TypeMismatch { .. } =
                        &completed
                    {
                        tracing::warn!(%uid, "the content does not have the expected digests or type");
                    }
                    self.task_notifier.notify_node();
                    return Ok(completed);
                }
            }
        }
        Err(Error::unavailable("the parts changed during completion; retry"))
    }
}
