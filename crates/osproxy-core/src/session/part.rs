//! Receives a body that is one part of a file.

use std::{error::Error as _, sync::Arc};

use bytes::Bytes;
use osproxy_api::ErrorCode;
use osproxy_meta::{
    BeginPartOutcome, FileState, FinishPartOutcome, MetaError, ObjectRowKind, PartIntent, PartMismatch,
    ReceivedPart, SuspendPartOutcome,
};
use osproxy_storage::{self as storage, DigestSelection, Digests, Key, ObjectWriter, SizeHint};
use osproxy_types::{
    content_type::{self, HEAD, Sniffer},
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

/// Digests, MIME type, tag and checksums of a part whose bytes are durable.
struct ReceivedBytes {
    digests: Digests,
    sniffed: Option<&'static str>,
    tag: String,
    checksums: Option<String>,
}

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
    pub(super) key: Key,
    pub(super) upload_id: String,
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
    begin_write(uploads, uid, max_size, |part_id| {
        uploads.meta.uploads.begin_part(uid, number, part_id, size, max_size)
    })
    .await
}

/// Like [`begin`], for an object that receives only the first bytes of the part.
pub(super) async fn begin_prefix(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    number: u32,
    max_size: Option<u64>,
) -> Result<PartWrite> {
    begin_write(uploads, uid, max_size, |part_id| {
        uploads.meta.uploads.begin_prefix(uid, number, part_id, max_size)
    })
    .await
}

async fn begin_write<F>(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    max_size: Option<u64>,
    record: impl Fn(Uid) -> F,
) -> Result<PartWrite>
where
    F: Future<Output = std::result::Result<BeginPartOutcome, MetaError>>,
{
    for _ in 0..MAX_TRIES {
        let part_id = uploads.uids.next().await?;
        let active = ActiveWrite::new(&uploads.objects, part_id.get());
        match record(part_id).await? {
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
    /// Continues the suspended part in row `part_id`, which is in a slot.
    pub(super) async fn resume(uploads: &Arc<UploadOps>, uid: Uid, part_id: i64) -> Result<Self> {
        let resuming = uploads.clone();
        // Spawned, so that the guard exists if the row was changed.
        let resumed = uploads.detached_work.spawn(async move {
            let active = ActiveWrite::new(&resuming.objects, part_id);
            let intent = resuming.meta.uploads.resume_part(uid, part_id).await?;
            Ok::<_, Error>(intent.map(|intent| (WriteGuard::new(ObjectRowKind::Part, active), intent)))
        });
        let changed = || Error::unavailable("the upload changed meanwhile; retry");
        let (guard, intent) = resumed.await.map_err(Error::internal)??.ok_or_else(changed)?;
        let slot = intent.slot.as_ref().ok_or_else(changed)?;
        let multipart = PartTarget {
            store: intent.store.clone(),
            blob_id: intent.blob_id,
            key: slot.key.clone(),
            upload_id: slot.upload_id.clone().ok_or_else(changed)?,
        };
        Ok(Self { guard, intent, multipart: Some(multipart) })
    }

    /// Opens the write target of a part. A part in a slot or in a multipart upload must have an
    /// exact size.
    pub(super) async fn open(
        self,
        uploads: &Arc<UploadOps>,
        options: &UploadOptions,
        size: SizeHint,
    ) -> Result<IncomingPart> {
        let plan = self.plan(uploads, options, size);
        let (store, digests) = (plan.destination.store, plan.destination.digests);
        let size_of_part = size.at_most().unwrap_or(u64::MAX);
        let mut writer = if let Some(PartTarget { key, upload_id, .. }) = &self.multipart {
            let multipart = uploads.stores.multipart(store)?;
            multipart.create_part(key, upload_id, self.intent.number, size_of_part).await?
        } else {
            // On a local disk, a part that is an object may turn out smaller.
            let is_remote = uploads.stores.is_remote(store);
            let size = if is_remote { size } else { SizeHint::AtMost(size_of_part) };
            uploads.stores.get(store)?.create(&self.intent.key, size).await?
        };
        writer.select_digests(digests);
        Ok(IncomingPart {
            size: size_of_part,
            received: 0,
            write: self,
            writer,
            content_type: Sniffer::default(),
            end: None,
        })
    }

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
        // In a partial upload, the offset in the content is not known.
        let has_subtrees = !intent.is_partial && intent.layout.is_some_and(|layout| layout.parts() > 1);
        let subtree_offset = range.filter(|_| has_subtrees).map(|range| range.start);
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
    /// completion. The same holds for partial uploads, any of which may be the first.
    pub(super) fn determines_content_type(&self, size: u64, sniffed: Option<&str>) -> bool {
        self.intent.number == 1
            && !self.intent.is_partial
            && (size >= HEAD as u64 || content_type::is_specific(sniffed))
    }

    /// Publishes the part and records it. Replaces an earlier part with this number.
    pub(super) async fn commit(
        self,
        uploads: Arc<UploadOps>,
        uid: Uid,
        received: Received,
        options: UploadOptions,
    ) -> Result<()> {
        let _committing = uploads.metrics.commits.begin();
        let Received { writer, digests, sniffed, buffers: _buffers } = received;
        let mut tag = String::new();
        let mut write = self;
        if write.multipart.is_some() {
            // After an error, the part may still appear in the store. That is harmless, because no
            // row has its tag.
            tag = writer.publish().await?;
        } else {
            write.guard.publish(&mut Some(writer)).await?;
        }
        let UploadOptions { checksums, constraints, .. } = options;
        let checksums = checksums.and_then(|checksums| checksums.get().cloned());
        write.record(&uploads, uid, ReceivedBytes { digests, sniffed, tag, checksums }, constraints).await
    }

    /// Records the part as stored. Its bytes are durable. Replaces an earlier part with this
    /// number.
    async fn record(
        self,
        uploads: &Arc<UploadOps>,
        uid: Uid,
        ReceivedBytes { digests, sniffed, tag, checksums }: ReceivedBytes,
        constraints: LinkConstraints,
    ) -> Result<()> {
        let Self { guard, intent, multipart } = self;
        let LinkConstraints { max_size, content_type, .. } = constraints;
        let part = ReceivedPart { digests, sniffed, tag, max_size, content_type, checksums };
        let outcome = uploads.meta.uploads.finish_part(uid, &intent, part).await?;
        if !matches!(outcome, FinishPartOutcome::Stored(_)) && multipart.is_none() {
            // Delete the object here: the row of the part may be gone already, and the write guard
            // cannot find the object without the row.
            uploads.stores.get(&intent.store)?.delete(std::slice::from_ref(&intent.key)).await?;
        }
        match outcome {
            FinishPartOutcome::Stored(replaced) => {
                guard.disarm();
                remove_replaced(uploads, replaced).await;
                Ok(())
            }
            FinishPartOutcome::Unchanged => Ok(()),
            FinishPartOutcome::TooLarge => Err(too_large_error(max_size.unwrap_or_default())),
            FinishPartOutcome::ExceedsAnnounced(size) => Err(exceeds_announced_error(size)),
            FinishPartOutcome::OverQuota => Err(Error::quota_exceeded()),
            FinishPartOutcome::Closed => Err(match uploads.meta.files.state(uid).await? {
                // Another blob receives the parts of this file now.
                Some(FileState::Pending | FileState::Receiving | FileState::Partial) => {
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

/// A part that is being appended to.
pub(super) struct IncomingPart {
    write: PartWrite,
    writer: Box<dyn ObjectWriter>,
    /// Size of the whole part, in bytes.
    size: u64,
    /// Bytes received, including those before the part was suspended.
    received: u64,
    content_type: Sniffer,
    /// Set by [`finish`](Self::finish).
    end: Option<(Digests, Option<&'static str>)>,
}

impl IncomingPart {
    pub(super) fn multipart(&self) -> Option<&PartTarget> {
        self.write.multipart.as_ref()
    }

    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.received += bytes.len() as u64;
        self.content_type.update(&bytes);
        Ok(self.writer.write(bytes).await?)
    }

    /// Skips bytes that are in the slot already.
    pub(super) async fn skip(&mut self, bytes: Bytes) -> Result<()> {
        self.received += bytes.len() as u64;
        self.content_type.update(&bytes);
        Ok(self.writer.skip(bytes).await?)
    }

    /// Ends the bytes that were received. Fails with `UnsupportedMediaType` if the link does not
    /// accept the MIME type of the content.
    pub(super) async fn finish(
        &mut self,
        uploads: &UploadOps,
        uid: Uid,
        options: &UploadOptions,
    ) -> Result<()> {
        let digests = self.writer.finish().await?;
        let sniffed = std::mem::take(&mut self.content_type).finish();
        if self.write.determines_content_type(self.received, sniffed) {
            check_first_part(uploads, uid, &options.constraints, sniffed).await?;
        }
        self.end = Some((digests, sniffed));
        Ok(())
    }

    /// Makes the received bytes durable. If not `is_whole`, bytes of the part are missing. A whole
    /// part in a slot may be shorter than the slot, if it is the last.
    pub(super) async fn publish(self, is_whole: bool) -> Result<DurablePart> {
        let Self { mut write, writer, received, size, end, .. } = self;
        let (digests, sniffed) = end.ok_or_else(|| Error::internal("a part was not finished"))?;
        let mut tag = String::new();
        match &write.multipart {
            Some(_) if is_whole && received == size => tag = writer.publish().await?,
            Some(_) => writer.suspend().await?,
            None => write.guard.publish(&mut Some(writer)).await?,
        }
        let received = ReceivedBytes { digests, sniffed, tag, checksums: None };
        Ok(DurablePart { write, is_whole, received })
    }
}

/// A part whose received bytes are durable, but not recorded. Dropping it discards the write: a part
/// that was resumed becomes suspended again, with its earlier bytes. A part in a remote multipart
/// upload stays there until that upload ends.
pub(super) struct DurablePart {
    write: PartWrite,
    is_whole: bool,
    received: ReceivedBytes,
}

impl DurablePart {
    /// Records the part: as stored, or as suspended if bytes are missing.
    pub(super) async fn record(
        self,
        uploads: &Arc<UploadOps>,
        uid: Uid,
        constraints: LinkConstraints,
    ) -> Result<()> {
        let Self { write, is_whole, received } = self;
        if is_whole {
            return write.record(uploads, uid, received, constraints).await;
        }
        let PartWrite { guard, intent, multipart } = write;
        let Digests { size, blake3, .. } = received.digests;
        let outcome = uploads.meta.uploads.suspend_part(uid, &intent, size, blake3).await?;
        if !matches!(outcome, SuspendPartOutcome::Suspended(_)) && multipart.is_none() {
            uploads.stores.get(&intent.store)?.delete(std::slice::from_ref(&intent.key)).await?;
        }
        match outcome {
            SuspendPartOutcome::Suspended(replaced) => {
                guard.disarm();
                remove_replaced(uploads, replaced).await;
                Ok(())
            }
            // A concurrent request has received these bytes.
            SuspendPartOutcome::Superseded => Ok(()),
            SuspendPartOutcome::ExceedsAnnounced(size) => Err(exceeds_announced_error(size)),
            SuspendPartOutcome::OverQuota => Err(Error::quota_exceeded()),
            SuspendPartOutcome::Closed | SuspendPartOutcome::Swept => {
                Err(Error::unavailable("the upload changed meanwhile; ask for its offset"))
            }
        }
    }
}

/// Removes a part that was replaced. If this fails, the sweep removes it later.
async fn remove_replaced(uploads: &UploadOps, replaced: Option<i64>) {
    if let Some(replaced) = replaced
        && let Err(error) = uploads.objects.delete_unreferenced(ObjectRowKind::Part, replaced).await
    {
        tracing::warn!(
            part_id = replaced,
            error = error_chain(&error),
            "cannot remove a replaced part yet; the sweep retries"
        );
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
        Ok(Some(FileState::Pending | FileState::Receiving | FileState::Partial)) => error,
        Ok(state) => state.map_or_else(unknown_uid_error, state_error),
        Err(failed) => failed.into(),
    }
}

fn exceeds_announced_error(size: u64) -> Error {
    Error::new(ErrorCode::SizeMismatch, format!("the parts have more than the announced {size} bytes"))
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
