//! Receives bytes that continue an upload. They are written part by part, in the order of the
//! content. What has arrived stays when the body breaks off: the part that it was in is suspended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use osproxy_api::ErrorCode;
use osproxy_meta::{AppendPosition, Concatenation, FileState, ObjectRowKind, SuspendedPart};
use osproxy_storage::{
    self as storage, DigestSelection, Digester, ErrorKind, ObjectReader, SizeHint, UNKNOWN_PART,
};
use osproxy_types::uid::Uid;
use tokio::task::JoinHandle;

use super::{
    body_digest::{BodyDigest, BodyHasher},
    part::{self, DurablePart, IncomingPart, PartTarget, PartWrite},
    receive::{ChunkBuffer, SizeLimit},
};
use crate::{
    Error, Result,
    appends::AppendLock,
    ops::{DEFAULT_PART_SIZE, UploadOps, UploadOptions, state_error, unknown_uid_error},
};

/// Maximum size, in bytes, of a part that is buffered in memory, because the store must know how
/// many bytes follow. Larger parts are streamed, and their bytes are lost if a body breaks off that
/// announces the rest of the part.
const MAX_BUFFERED_PART: u64 = UNKNOWN_PART;

/// How long a request goes on receiving bytes after a newer request for the upload has arrived.
const MAX_DRAIN: Duration = Duration::from_millis(500);
/// Maximum pause between these bytes.
const MAX_DRAIN_PAUSE: Duration = Duration::from_millis(50);

/// How long a request waits until an earlier write is cleaned up.
const MAX_CLEANUP: Duration = Duration::from_secs(10);
/// How often it looks.
const CLEANUP_POLL: Duration = Duration::from_millis(5);

/// Bytes that a client wants to append.
pub(crate) struct AppendRequest {
    pub(crate) uid: Uid,
    pub(crate) options: UploadOptions,
    /// What is known about the length of the body.
    pub(crate) size: SizeHint,
    /// Whether the content ends with the body.
    pub(crate) ends_content: bool,
    /// Digest that the body must have. Nothing of a body with another digest is kept.
    pub(crate) checksum: Option<BodyDigest>,
}

/// Appends `body` to an upload at `position`, and returns when it is durable. If the body breaks off,
/// or a newer request waits for `lock`, the bytes that have arrived stay.
pub(crate) async fn append(
    uploads: &Arc<UploadOps>,
    lock: &mut AppendLock,
    position: AppendPosition,
    request: AppendRequest,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    let AppendRequest { uid, options, size, ends_content, checksum } = request;
    let offset = position.offset;
    let max = position.size.unwrap_or(uploads.limits.max_size);
    let max = max.min(options.constraints.max_size.unwrap_or(u64::MAX));
    let limit = SizeLimit { subject: "file", max };
    let end = if let SizeHint::Exact(size) = size { Some(offset.saturating_add(size)) } else { None };
    limit.check(end.unwrap_or(offset))?;
    if let (true, Some(end), Some(all)) = (ends_content, end, position.size)
        && all != end
    {
        let message = format!("the content must have the announced {all} bytes, not {end}");
        return Err(Error::new(ErrorCode::SizeMismatch, message));
    }
    let store = position.store.as_deref().unwrap_or_else(|| uploads.stores.name_for_new());
    if uploads.stores.is_shared(store) {
        lock.announce_soon();
    }
    let is_buffered = uploads.stores.is_remote(store);
    // At most one part is buffered at a time, here or by the writer of an object of unknown size.
    let buffered = if is_buffered { SizeHint::Unknown } else { SizeHint::Exact(0) };
    let mut admission = uploads.admission.admit_content(&options.constraints, buffered).await?;
    let uncharged = position.size.is_none().then_some(size);
    admission.check_tenant_limits(&uploads.admission, &position.tenant, uncharged).await?;
    let mut append = Append {
        uploads,
        uid,
        options,
        limit,
        ends_content,
        end,
        is_buffered,
        offset,
        position,
        target: None,
        committing: None,
        unchecked: checksum.map(|_| Vec::new()),
    };
    let hasher = checksum.map(BodyHasher::new);
    let mut body = AppendBody { stream: body, next: None, lock, superseded_at: None, hasher };
    let received = append.run(&mut body).await;
    let committed = append.wait_for_commit().await;
    let mut appended = received.and(committed);
    if let (Ok(()), Some(hasher)) = (&appended, body.hasher) {
        appended = match hasher.check() {
            Ok(()) => append.record_checked().await,
            wrong => wrong,
        };
    }
    match appended {
        Ok(()) => Ok(()),
        Err(error) => Err(part::explain_failure(uploads, uid, append.target.take(), error).await),
    }
}

/// Returns where the next byte of an upload goes. Fails if the upload takes no more bytes, except
/// if it is complete.
pub(crate) async fn open_position(uploads: &UploadOps, uid: Uid) -> Result<AppendPosition> {
    let position = uploads.meta.uploads.append_position(uid).await?.ok_or_else(unknown_uid_error)?;
    check_open(&position)?;
    Ok(position)
}

/// Fails if the upload takes no more bytes, except if it is complete.
pub(crate) fn check_open(position: &AppendPosition) -> Result<()> {
    match position.state {
        FileState::Pending
        | FileState::Receiving
        | FileState::Completing
        | FileState::Partial
        | FileState::Processing
        | FileState::Stored => Ok(()),
        state => Err(state_error(state)),
    }
}

/// Like [`open_position`], but waits until an earlier write of the part is cleaned up, so that the
/// part can be continued.
pub(crate) async fn settled_position(uploads: &UploadOps, uid: Uid) -> Result<AppendPosition> {
    let started = Instant::now();
    loop {
        let position = open_position(uploads, uid).await?;
        let Some(SuspendedPart { id, is_resumed, .. }) = position.suspended else {
            return Ok(position);
        };
        let is_active = uploads.objects.active_writes().contains(&id);
        if !is_resumed && !is_active {
            return Ok(position);
        }
        if !is_active {
            // The process that wrote it has crashed.
            uploads.objects.delete_unreferenced(ObjectRowKind::Part, id).await?;
        } else if started.elapsed() > MAX_CLEANUP {
            return Err(Error::unavailable("an earlier write of this part has not ended yet; retry"));
        } else {
            tokio::time::sleep(CLEANUP_POLL).await;
        }
    }
}

/// A body whose current chunk may be larger than the room in the current part.
struct AppendBody<'a, S> {
    stream: S,
    next: Option<Bytes>,
    lock: &'a mut AppendLock,
    /// When a newer request for the upload arrived.
    superseded_at: Option<Instant>,
    hasher: Option<BodyHasher>,
}

impl<S: Stream<Item = Result<Bytes>> + Send + Unpin> AppendBody<'_, S> {
    /// Waits for bytes. Returns `false` at the end of the body. Fails if the body breaks off, or
    /// another request continues the upload.
    async fn fill(&mut self) -> Result<bool> {
        while self.next.as_ref().is_none_or(Bytes::is_empty) {
            let chunk = match self.superseded_at {
                None => tokio::select! {
                    biased;
                    () = self.lock.superseded() => {
                        self.superseded_at = Some(Instant::now());
                        continue;
                    }
                    chunk = self.stream.next() => chunk,
                },
                // The client has left. Its last bytes may still be on their way through this
                // machine.
                Some(since) => {
                    let left = MAX_DRAIN.checked_sub(since.elapsed()).ok_or_else(superseded_error)?;
                    let chunk = tokio::time::timeout(left.min(MAX_DRAIN_PAUSE), self.stream.next()).await;
                    chunk.map_err(|_| superseded_error())?
                }
            };
            match chunk {
                Some(chunk) => self.next = Some(chunk?),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Takes up to `max` bytes that have arrived.
    fn take(&mut self, max: u64) -> Bytes {
        let chunk = self.next.get_or_insert_default();
        let taken = chunk.split_to(usize::try_from(max).unwrap_or(usize::MAX).min(chunk.len()));
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&taken);
        }
        taken
    }
}

pub(crate) fn superseded_error() -> Error {
    let message = "a newer request for this upload has ended this one; ask for the offset";
    Error::new(ErrorCode::Superseded, message)
}

/// A running append.
struct Append<'a> {
    uploads: &'a Arc<UploadOps>,
    uid: Uid,
    options: UploadOptions,
    limit: SizeLimit,
    ends_content: bool,
    /// Offset at which the body ends, if its length is known.
    end: Option<u64>,
    /// Whether parts of up to [`MAX_BUFFERED_PART`] are buffered.
    is_buffered: bool,
    /// Where the next byte of the body goes.
    offset: u64,
    /// The part that contains `offset`.
    position: AppendPosition,
    /// The multipart upload or preallocated file that the latest part went to, if any.
    target: Option<PartTarget>,
    /// The part before, which is being committed.
    committing: Option<JoinHandle<Result<()>>>,
    /// Durable parts that are not recorded before the checksum of the body is checked. `None` if
    /// the body has no checksum.
    unchecked: Option<Vec<DurablePart>>,
}

/// The part that is written next.
struct NextPart {
    number: u32,
    /// Size of the whole part, in bytes. The last part of content of unknown size is smaller.
    size: u64,
    suspended: Option<SuspendedPart>,
}

impl NextPart {
    /// Bytes of the part that were received before.
    fn received(&self) -> u64 {
        self.suspended.as_ref().map_or(0, |suspended| suspended.size)
    }
}

/// The bytes of a part that were received, and why no more follow. Without an error, the part is
/// complete, or the body has ended.
struct PartEnd {
    received: u64,
    error: Option<Error>,
}

impl Append<'_> {
    async fn run<S>(&mut self, body: &mut AppendBody<'_, S>) -> Result<()>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        while body.fill().await? || self.ends_in_suspended_part() {
            let part = self.next_part()?;
            let PartEnd { received, error } = if self.is_buffered && part.size <= MAX_BUFFERED_PART {
                self.buffer_part(part, body).await?
            } else {
                self.stream_part(part, body).await?
            };
            self.position.suspended = None;
            self.position.number += 1;
            self.offset += received;
            if let Some(error) = error {
                return Err(error);
            }
        }
        match self.end {
            Some(end) if self.offset < end => {
                Err(Error::new(ErrorCode::IncompleteBody, "the body ended before it was complete"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the body, which has ended, adds nothing to a suspended part with all bytes up to
    /// the end of the content. This happens if the size was announced after the bytes.
    fn ends_in_suspended_part(&self) -> bool {
        self.position.suspended.is_some() && self.is_end(self.offset)
    }

    /// Whether the content ends at this offset. Call this when the body has ended.
    fn is_end(&self, offset: u64) -> bool {
        self.position.size.map_or(self.ends_content, |size| offset == size)
    }

    /// Whether the content ends with the body, wherever that is.
    fn ends_anywhere(&self) -> bool {
        self.ends_content && self.position.size.is_none()
    }

    fn next_part(&mut self) -> Result<NextPart> {
        let AppendPosition { number, layout, slot_size, size, .. } = self.position;
        let suspended = self.position.suspended.take();
        let start = self.offset - suspended.as_ref().map_or(0, |suspended| suspended.size);
        let fixed = match layout {
            Some(layout) => layout.range(number).map(|range| range.end - range.start),
            None => Some(slot_size.unwrap_or(DEFAULT_PART_SIZE)),
        };
        let size = fixed.map(|fixed| fixed.min(size.map_or(u64::MAX, |size| size.saturating_sub(start))));
        match size {
            Some(size) if size > 0 && number <= self.uploads.limits.max_parts => {
                Ok(NextPart { number, size, suspended })
            }
            Some(size) if size > 0 => {
                let max = self.uploads.limits.max_parts;
                let message = format!(
                    "content of unknown size may have at most {max} parts of {size} bytes; announce the size \
                     when you create the upload"
                );
                Err(Error::new(ErrorCode::TooLarge, message))
            }
            _ => Err(Error::new(ErrorCode::TooLarge, "the body exceeds the announced size")),
        }
    }

    /// Writes a part while it arrives.
    async fn stream_part<S>(&mut self, part: NextPart, body: &mut AppendBody<'_, S>) -> Result<PartEnd>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        // A remote store must know the length of a part. If the body does not have the rest of the
        // part, its bytes become a separate object.
        let rest = self.offset + (part.size - part.received());
        let is_prefix = self.is_buffered && self.end.is_none_or(|end| end < rest);
        let write = if let Some(SuspendedPart { id, key: None, .. }) = &part.suspended {
            PartWrite::resume(self.uploads, self.uid, *id).await?
        } else {
            self.begin(part.number, Some(part.size).filter(|_| !is_prefix)).await?
        };
        let size = if is_prefix { SizeHint::Unknown } else { SizeHint::Exact(part.size) };
        let mut incoming = write.open(self.uploads, &self.options, size).await?;
        self.target = incoming.multipart().cloned();
        if let Some(suspended) = &part.suspended {
            let mut earlier = self.open_suspended(&part, suspended, incoming.multipart()).await?;
            while let Some(bytes) = earlier.next(self).await? {
                match suspended.key {
                    Some(_) => incoming.write(bytes).await?,
                    None => incoming.skip(bytes).await?,
                }
            }
        }
        let (mut received, mut error) = (0, None);
        while error.is_none() && part.received() + received < part.size {
            match body.fill().await {
                Ok(true) => {
                    let bytes = body.take(part.size - part.received() - received);
                    received += bytes.len() as u64;
                    self.limit.check(self.offset + received)?;
                    incoming.write(bytes).await?;
                }
                Ok(false) => break,
                Err(broken) => error = Some(broken),
            }
        }
        let is_whole = part.received() + received == part.size;
        if let Some(error) = error.take_if(|_| !is_whole && self.is_buffered && !is_prefix) {
            return Err(error);
        }
        self.end_part(incoming, is_whole, received, error).await
    }

    /// Collects a part in memory, then writes it.
    async fn buffer_part<S>(&mut self, part: NextPart, body: &mut AppendBody<'_, S>) -> Result<PartEnd>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        let mut chunks = ChunkBuffer::default();
        if let Some(suspended) = &part.suspended {
            let mut earlier = self.open_suspended(&part, suspended, None).await?;
            while let Some(bytes) = earlier.next(self).await? {
                chunks.push(bytes);
            }
        }
        let (mut received, mut error) = (0, None);
        while error.is_none() && part.received() + received < part.size {
            match body.fill().await {
                Ok(true) => {
                    let bytes = body.take(part.size - part.received() - received);
                    received += bytes.len() as u64;
                    self.limit.check(self.offset + received)?;
                    chunks.push(bytes);
                }
                Ok(false) => break,
                Err(broken) => error = Some(broken),
            }
        }
        let size = part.received() + received;
        let is_whole = size == part.size || error.is_none() && self.ends_anywhere();
        let write = self.begin(part.number, is_whole.then_some(size)).await?;
        let mut incoming = write.open(self.uploads, &self.options, SizeHint::Exact(size)).await?;
        self.target = incoming.multipart().cloned();
        for bytes in chunks.into_chunks() {
            incoming.write(bytes).await?;
        }
        self.end_part(incoming, is_whole, received, error).await
    }

    /// Records the intent to write a part of `size` bytes; `None` if bytes of the part will be
    /// missing.
    async fn begin(&self, number: u32, size: Option<u64>) -> Result<PartWrite> {
        // The limit on the size is checked when the bytes arrive: a part may be smaller than `size`.
        let (uploads, uid, max_size) = (self.uploads.clone(), self.uid, None);
        // Spawned, so that the changes to the database complete in any case.
        let begun = self.uploads.detached_work.spawn(async move {
            match size {
                Some(size) => part::begin(&uploads, uid, number, SizeHint::Exact(size), max_size).await,
                None => part::begin_prefix(&uploads, uid, number, max_size).await,
            }
        });
        begun.await.map_err(Error::internal)?
    }

    /// Commits a part, or suspends it if bytes are missing. `error` is the reason why the body
    /// broke off.
    async fn end_part(
        &mut self,
        mut incoming: IncomingPart,
        is_whole: bool,
        received: u64,
        error: Option<Error>,
    ) -> Result<PartEnd> {
        let (uploads, uid) = (self.uploads.clone(), self.uid);
        incoming.finish(&uploads, uid, &self.options).await?;
        let is_stored = is_whole || error.is_none() && self.ends_anywhere();
        // The parts before are committed first: the offset of an upload never has a gap.
        self.wait_for_commit().await?;
        let constraints = self.options.constraints.clone();
        if let Some(unchecked) = &mut self.unchecked {
            let publishing = self.uploads.detached_work.spawn(async move {
                let _committing = uploads.metrics.commits.begin();
                incoming.publish(is_stored).await
            });
            unchecked.push(publishing.await.map_err(Error::internal)??);
            return Ok(PartEnd { received, error });
        }
        let committing = self.uploads.detached_work.spawn(async move {
            let _committing = uploads.metrics.commits.begin();
            let durable = incoming.publish(is_stored).await?;
            durable.record(&uploads, uid, constraints).await
        });
        self.committing = Some(committing);
        if self.is_buffered {
            // One part in memory at a time.
            self.wait_for_commit().await?;
        }
        Ok(PartEnd { received, error })
    }

    /// Records the parts of a body whose checksum was checked.
    async fn record_checked(&mut self) -> Result<()> {
        for durable in self.unchecked.take().into_iter().flatten() {
            let (uploads, uid) = (self.uploads.clone(), self.uid);
            let constraints = self.options.constraints.clone();
            // Spawned: this must complete even if the client disconnects.
            let recording = self.uploads.detached_work.spawn(async move {
                let _committing = uploads.metrics.commits.begin();
                durable.record(&uploads, uid, constraints).await
            });
            recording.await.map_err(Error::internal)??;
        }
        Ok(())
    }

    /// Waits until the part that is being committed is durable.
    async fn wait_for_commit(&mut self) -> Result<()> {
        match self.committing.take() {
            Some(committing) => committing.await.map_err(Error::internal)?,
            None => Ok(()),
        }
    }

    /// Opens the bytes of a suspended part, which are an object, or in their slot in `slot`.
    async fn open_suspended(
        &self,
        part: &NextPart,
        suspended: &SuspendedPart,
        slot: Option<&PartTarget>,
    ) -> Result<EarlierBytes> {
        let store = self.position.store.as_deref().unwrap_or_else(|| self.uploads.stores.name_for_new());
        let opened = match (&suspended.key, slot) {
            (Some(key), _) => self.uploads.stores.get(store)?.open(key, 0..suspended.size).await,
            (None, Some(slot)) => {
                let AppendPosition { layout, slot_size, .. } = self.position;
                let slot_size = layout.map(|layout| layout.part_size).or(slot_size).unwrap_or_default();
                let start = u64::from(part.number - 1) * slot_size;
                let range = start..start + suspended.size;
                let multipart = self.uploads.stores.multipart(store)?;
                multipart.open_incomplete(&slot.key, &slot.upload_id, range).await
            }
            (None, None) => return Err(Error::internal("a suspended part has no bytes")),
        };
        let is_partial = self.position.concatenation == Some(Concatenation::Partial);
        let layout = self.position.layout.filter(|layout| layout.parts() > 1 && !is_partial);
        let subtree_offset = layout.and_then(|layout| layout.range(part.number)).map(|range| range.start);
        Ok(EarlierBytes {
            suspended: suspended.clone(),
            reader: match opened {
                Err(error) if is_lost(&error) => None,
                opened => Some(opened?),
            },
            digester: Digester::new(DigestSelection { subtree_offset, ..DigestSelection::default() }),
        })
    }

    /// Drops a suspended part whose bytes are lost or damaged. Returns the error for the client.
    async fn drop_suspended(&self, suspended: &SuspendedPart) -> Error {
        // Another node may have replaced the part meanwhile.
        let id = Some(suspended.id);
        match open_position(self.uploads, self.uid).await {
            Ok(now) if now.suspended.as_ref().map(|now| now.id) != id => {
                return Error::offset_mismatch(now.offset);
            }
            Ok(_) => {}
            Err(error) => return error,
        }
        tracing::error!(
            uid = %self.uid,
            part_id = suspended.id,
            "the bytes of a suspended part are lost or damaged; they must be sent again"
        );
        match self.uploads.meta.uploads.drop_suspended_part(self.uid, suspended.id).await {
            Ok(()) => Error::offset_mismatch(self.offset - suspended.size),
            Err(error) => error.into(),
        }
    }
}

/// The bytes of a suspended part, which are read to continue it.
struct EarlierBytes {
    suspended: SuspendedPart,
    /// `None` if the store has lost the bytes.
    reader: Option<ObjectReader>,
    digester: Digester,
}

impl EarlierBytes {
    /// Returns the next bytes. If the bytes are lost, or differ from those that were suspended, drops
    /// the part, and fails with `OffsetMismatch`.
    async fn next(&mut self, append: &Append<'_>) -> Result<Option<Bytes>> {
        let read = match &mut self.reader {
            Some(reader) => reader.try_next().await,
            None => return Err(append.drop_suspended(&self.suspended).await),
        };
        match read {
            Ok(Some(bytes)) => {
                self.digester.update(&bytes);
                Ok(Some(bytes))
            }
            Ok(None) => {
                let found = self.digester.clone().finish().blake3;
                match self.suspended.blake3 {
                    Some(known) if known != found => Err(append.drop_suspended(&self.suspended).await),
                    _ => Ok(None),
                }
            }
            Err(error) if is_lost(&error) => Err(append.drop_suspended(&self.suspended).await),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the store has lost bytes that it had.
fn is_lost(error: &storage::Error) -> bool {
    matches!(error.kind, ErrorKind::NotFound | ErrorKind::Truncated)
}
