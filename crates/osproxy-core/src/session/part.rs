//! Receives a body that is one part of a file.

use std::{error::Error as _, sync::Arc};

use osproxy_api::ErrorCode;
use osproxy_meta::{
    BeginPartOutcome, FileState, FinishPartOutcome, ObjectRowKind, PartIntent, PartMismatch, ReceivedPart,
};
use osproxy_storage::{self as storage, DigestSelection, Key, SizeHint};
use osproxy_types::{
    content_type::{self, HEAD},
    error_chain,
    uid::Uid,
};

use super::{
    receive::{Destination, Received, SizeLimit, WriteTarget},
    upload_session::{BodyPlan, select_digests},
};
use crate::{
    Error, Result,
    links::LinkConstraints,
    objects::write_guard::{ActiveWrite, WriteGuard},
    ops::{
        UploadOps, UploadOptions, check_content_type, complete_upload::resume_completion, state_error,
        too_large_error, unknown_uid_error,
    },
};

/// Maximum attempts when concurrent requests start the same upload.
const MAX_TRIES: usize = 3;

/// A write of a part. The write intent is recorded.
pub(super) struct PartWrite {
    guard: WriteGuard,
    intent: PartIntent,
    /// The store's multipart upload that the part goes to, if any.
    multipart: Option<PartTarget>,
}

/// The store's multipart upload that a part goes to.
#[derive(Clone)]
pub(super) struct PartTarget {
    store: String,
    blob_id: i64,
    key: Key,
    upload_id: String,
}

/// The maximum size of a part that is sent through a link with these constraints.
pub(super) fn size_limit(uploads: &UploadOps, constraints: &LinkConstraints) -> SizeLimit {
    let max = uploads.limits.max_part_size.min(constraints.max_size.unwrap_or(u64::MAX));
    SizeLimit { subject: "part", max }
}

/// Records the intent to write part `number` of `uid`. If the part goes to a multipart upload of
/// the store, starts that multipart upload if necessary. `max_size` limits the size of all parts
/// together, in bytes.
pub(super) async fn begin(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    number: u32,
    size: SizeHint,
    max_size: Option<u64>,
) -> Result<PartWrite> {
    let size = if let SizeHint::Exact(size) = size { Some(size) } else { None };
    for _ in 0..MAX_TRIES {
        let part_id = uploads.uids.next().await?;
        let active = ActiveWrite::new(&uploads.objects, part_id.get());
        match uploads.meta.uploads.begin_part(uid, number, part_id, size, max_size).await? {
            BeginPartOutcome::Ready(intent) => {
                let guard = WriteGuard::new(ObjectRowKind::Part, active);
                let Some(slot) = &intent.slot else {
                    return Ok(PartWrite { guard, intent, multipart: None });
                };
                let (store, blob_id) = (intent.store.clone(), intent.blob_id);
                // If there is no upload id, the blob stopped accepting parts in the meantime: try
                // again.
                if let Some(upload_id) =
                    uploads.objects.ensure_multipart_upload(&store, blob_id, slot, &intent.tenant).await?
                {
                    let target = PartTarget { store, blob_id, key: slot.key.clone(), upload_id };
                    return Ok(PartWrite { guard, intent, multipart: Some(target) });
                }
            }
            BeginPartOutcome::Closed(FileState::Completing) => resume_completion(uploads, uid).await?,
            BeginPartOutcome::Closed(state) => return Err(state_error(state)),
            BeginPartOutcome::OtherNode(store) => return Err(Error::store_unreachable(&store)),
            BeginPartOutcome::Unknown => return Err(unknown_uid_error()),
            BeginPartOutcome::Mismatch(mismatch) => return Err(mismatch_error(mismatch)),
            BeginPartOutcome::TooLarge => return Err(too_large_error(max_size.unwrap_or_default())),
            BeginPartOutcome::Conflict => {}
        }
    }
    Err(Error::unavailable("too many concurrent requests for this upload; retry"))
}

impl PartWrite {
    pub(super) fn multipart(&self) -> Option<PartTarget> {
        self.multipart.clone()
    }

    pub(super) fn plan(&self, uploads: &UploadOps, options: &UploadOptions, size: SizeHint) -> BodyPlan<'_> {
        let intent = &self.intent;
        let target = match &self.multipart {
            Some(PartTarget { key, upload_id, .. }) => {
                WriteTarget::MultipartPart { key, upload_id, number: intent.number }
            }
            None => WriteTarget::Object(&intent.key),
        };
        let range = intent.layout.and_then(|layout| layout.range(intent.number));
        // If the size was announced, the length of each part is fixed, and the length in the
        // request is not needed.
        let size = range.as_ref().map_or(size, |range| SizeHint::Exact(range.end - range.start));
        let is_one_of_several = intent.layout.is_some_and(|layout| layout.parts() > 1);
        let subtree_offset = range.filter(|_| is_one_of_several).map(|range| range.start);
        BodyPlan {
            tenant: &intent.tenant,
            is_charged: intent.layout.is_some(),
            expected: options.expected,
            destination: Destination {
                store: &intent.store,
                target,
                digests: DigestSelection { subtree_offset, ..select_digests(options, &options.expected) },
                limit: size_limit(uploads, &options.constraints),
                size,
            },
        }
    }

    /// Whether this part alone determines the MIME type of the content. True for the first part, if
    /// it has enough bytes or its detected type is specific. Otherwise, the type is checked on
    /// completion.
    pub(super) fn determines_content_type(&self, received: &Received) -> bool {
        self.intent.number == 1
            && (received.digests.size >= HEAD as u64 || content_type::is_specific(received.sniffed))
    }

    /// Publishes the part and records it. Replaces an earlier part with this number.
    pub(super) async fn commit(
        self,
        uploads: Arc<UploadOps>,
        uid: Uid,
        received: Received,
        constraints: LinkConstraints,
    ) -> Result<()> {
        let _committing = uploads.metrics.commits.begin();
        let Self { mut guard, intent, multipart } = self;
        let Received { writer, digests, sniffed, buffers: _buffers } = received;
        let mut tag = String::new();
        if multipart.is_some() {
            // After an error, the part may still appear in the store. That is harmless, because no
            // row has its tag.
            tag = writer.publish().await?;
        } else {
            guard.publish(&mut Some(writer)).await?;
        }
        let LinkConstraints { max_size, content_type, .. } = constraints;
        let part = ReceivedPart { digests, sniffed, tag, max_size, content_type };
        let outcome = uploads.meta.uploads.finish_part(uid, &intent, part).await?;
        if !matches!(outcome, FinishPartOutcome::Stored(_)) && multipart.is_none() {
            // Delete the object here: the row of the part may be gone already, and the write guard
            // cannot find the object without the row.
            uploads.stores.get(&intent.store)?.delete(std::slice::from_ref(&intent.key)).await?;
        }
        match outcome {
            FinishPartOutcome::Stored(replaced) => {
                guard.disarm();
                if let Some(replaced) = replaced
                    // If this fails, the sweep removes the replaced part later.
                    && let Err(error) = uploads.objects.delete_unreferenced(ObjectRowKind::Part, replaced).await
                {
                    tracing::warn!(
                        part_id = replaced,
                        error = error_chain(&error),
                        "cannot remove a replaced part yet; the sweep retries"
                    );
                }
                Ok(())
            }
            FinishPartOutcome::Unchanged => Ok(()),
            FinishPartOutcome::TooLarge => Err(too_large_error(max_size.unwrap_or_default())),
            FinishPartOutcome::OverQuota => Err(Error::quota_exceeded()),
            FinishPartOutcome::Closed => Err(match uploads.meta.files.state(uid).await? {
                // Another blob receives the parts of this file now.
                Some(FileState::Pending | FileState::Receiving) => {
                    Error::unavailable("the upload was restarted; send the part again")
                }
                state => state.map_or_else(unknown_uid_error, state_error),
            }),
            FinishPartOutcome::Swept => {
                Err(Error::unavailable("the part took too long and was discarded; send it again"))
            }
        }
    }
}

/// Fails with `UnsupportedMediaType` if the link does not accept the MIME type of the content,
/// which was detected in the first part.
pub(super) async fn check_first_part(
    uploads: &UploadOps,
    uid: Uid,
    constraints: &LinkConstraints,
    sniffed: Option<&'static str>,
) -> Result<()> {
    if constraints.content_type.is_none() {
        return Ok(());
    }
    let file = uploads.meta.files.record(uid).await?.ok_or_else(unknown_uid_error)?;
    check_content_type(constraints, sniffed, &file.name)
}

/// Returns the error for the client after a part failed. If the store refused the part, the cause
/// may be that the multipart upload is lost or has ended. If the multipart upload is lost, resets
/// it, so that the client can send all parts again.
pub(super) async fn explain_failure(
    uploads: &UploadOps,
    uid: Uid,
    multipart: Option<PartTarget>,
    error: Error,
) -> Error {
    let is_store_error = error.source().is_some_and(<dyn std::error::Error>::is::<storage::Error>);
    let Some(PartTarget { store, blob_id, key, upload_id }) = multipart.filter(|_| is_store_error) else {
        return error;
    };
    match uploads.objects.reset_if_lost(&store, blob_id, &key, &upload_id).await {
        Ok(true) => return Error::unavailable(error),
        Ok(false) => {}
        Err(failed) => return failed,
    }
    match uploads.meta.files.state(uid).await {
        Ok(Some(FileState::Pending | FileState::Receiving)) => error,
        Ok(state) => state.map_or_else(unknown_uid_error, state_error),
        Err(failed) => failed.into(),
    }
}

fn mismatch_error(mismatch: PartMismatch) -> Error {
    let message = match mismatch {
        PartMismatch::TooManyParts(parts) => {
            format!("the part number is too high: this upload has {parts} parts")
        }
        PartMismatch::WrongSize(size) => {
            format!("this part must have {size} bytes, as the size and part size of the upload require")
        }
    };
    Error::new(ErrorCode::SizeMismatch, message)
}
