//! Receives bytes that continue an upload. They are written part by part, in the order of the
//! content. What has arrived stays when the body breaks off: the part that it was in is suspended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use osproxy_api::ErrorCode;
use osproxy_meta::{AppendPosition, FileState, IncompletePart, ObjectRowKind};
use osproxy_storage::{DigestSelection, Digester, ErrorKind, SizeHint};
use osproxy_types::uid::Uid;
use tokio::task::JoinHandle;

use super::{
    body_digest::{BodyDigest, BodyHasher},
    part::{self, DurablePart, IncomingPart, PartTarget, PartWrite},
    receive::SizeLimit,
};
use crate::{
    Error, Result,
    appends::Turn,
    ops::{DEFAULT_PART_SIZE, UploadOps, UploadOptions, state_error, unknown_uid_error},
};

/// Maximum size, in bytes, of a part that is buffered in memory, because the store must know how
/// many bytes follow. Larger parts are streamed, and their bytes are lost if a body breaks off that
/// announces the rest of the part.
const MAX_BUFFERED_PART: u64 = 16 << 20;

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
    /// Where the client assumes the end of the received bytes.
    pub(crate) offset: u64,
    pub(crate) options: UploadOptions,
    /// What is known about the length of the body.
    pub(crate) size: SizeHint,
    /// Whether the content ends with the body.
    pub(crate) ends_content: bool,
    /// Digest that the body must have. Nothing of a body with another digest is kept.
    pub(crate) checksum: Option<BodyDigest>,
}

/// Appends `body` to an upload, and returns when it is durable. If the body breaks off, or `turn`
/// is superseded, the bytes that have arrived stay.
pub(crate) async fn append(
    uploads: &Arc<UploadOps>,
    turn: &mut Turn,
    request: AppendRequest,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    let AppendRequest { uid, offset, options, size, ends_content, checksum } = request;
    let position = settled_position(uploads, uid).await?;
    if position.offset != offset {
        return Err(Error::offset_mismatch(position.offset));
    }
    let max = position.size.unwrap_or(uploads.limits.max_size);
    let max = max.min(options.constraints.max_size.unwrap_or(u64::MAX));
    let limit = SizeLimit { subject: "file", max };
    let end = offset.saturating_add(if let SizeHint::Exact(size) = size { size } else { 0 });
    limit.check(end)?;
    if let (true, SizeHint::Exact(_), Some(all)) = (ends_content, size, position.size)
        && all != end
    {
        let message = format!("the content must have the announced {all} bytes, not {end}");
        return Err(Error::new(ErrorCode::SizeMismatch, message));
    }
    let store = position.store.as_deref().unwrap_or_else(|| uploads.stores.name_for_new());
    let is_buffered = uploads.stores.is_remote(store);
    // At most one part is buffered at a time.
    let buffered = if is_buffered { SizeHint::AtMost(MAX_BUFFERED_PART) } else { SizeHint::Exact(0) };
    let mut admission = uploads.admission.admit_content(&options.constraints, buffered).await?;
    let uncharged = position.size.is_none().then_some(size);
    admission.check_tenant_limits(&uploads.admission, &position.tenant, uncharged).await?;
    let mut append = Append {
        uploads,
        uid,
        options,
        limit,
        ends_content,
        end: matches!(size, SizeHint::Exact(_)).then_some(end),
        is_buffered,
        offset,
        position,
        committing: None,
        unchecked: checksum.map(|_| Vec::new()),
    };
    let hasher = checksum.map(BodyHasher::new);
    let mut body = Body { stream: body, next: None, turn, superseded_at: None, hasher };
    let received = append.run(&mut body).await;
    let committed = append.wait_for_commit().await;
    received?;
    committed?;
    if let Some(hasher) = body.hasher {
        hasher.check()?;
        append.record_checked().await?;
    }
    Ok(())
}

/// Returns where the next byte of an upload goes. Fails if the upload takes no more bytes, except
/// if it is complete.
pub(crate) async fn open_position(uploads: &UploadOps, uid: Uid) -> Result<AppendPosition> {
    let position = uploads.meta.uploads.append_position(uid).await?.ok_or_else(unknown_uid_error)?;
    match position.state {
        FileState::Pending | FileState::Receiving | FileState::Completing | FileState::Stored => Ok(position),
        state => Err(state_error(state)),
    }
}

/// Like [`open_position`], but waits until an earlier write of the part is cleaned up, so that the
/// part can be continued.
async fn settled_position(uploads: &UploadOps, uid: Uid) -> Result<AppendPosition> {
    let started = Instant::now();
    loop {
        let position = open_position(uploads, uid).await?;
        let resumed = position.incomplete.as_ref().filter(|incomplete| incomplete.is_resumed);
        let Some(IncompletePart { id, .. }) = resumed else {
            return Ok(position);
        };
        if !uploads.objects.active_writes().contains(id) {
            // The process that wrote it has crashed.
            uploads.objects.delete_unreferenced(ObjectRowKind::Part, *id).await?;
        } else if started.elapsed() > MAX_CLEANUP {
            return Err(Error::unavailable("an earlier write of this part has not ended yet; retry"));
        } else {
            tokio::time::sleep(CLEANUP_POLL).await;
        }
    }
}

/// A body whose current chunk may be larger than the room in the current part.
struct Body<'a, S> {
    stream: S,
    next: Option<Bytes>,
    turn: &'a mut Turn,
    /// When a newer request for the upload arrived.
    superseded_at: Option<Instant>,
    hasher: Option<BodyHasher>,
}

impl<S: Stream<Item = Result<Bytes>> + Send + Unpin> Body<'_, S> {
    /// Waits for bytes. Returns `false` at the end of the body. Fails if the body breaks off, or
    /// another request continues the upload.
    async fn fill(&mut self) -> Result<bool> {
        while self.next.as_ref().is_none_or(Bytes::is_empty) {
            let chunk = match self.superseded_at {
                None => tokio::select! {
                    biased;
                    chunk = self.stream.next() => chunk,
                    () = self.turn.superseded() => {
                        self.superseded_at = Some(Instant::now());
                        continue;
                    }
                },
                // The client has left. Its last bytes may still be on their way through this
                // machine.
                Some(since) => {
                    let left = MAX_DRAIN.saturating_sub(since.elapsed()).min(MAX_DRAIN_PAUSE);
                    let chunk = tokio::time::timeout(left, self.stream.next()).await;
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

fn superseded_error() -> Error {
    let message = "a newer request for this upload arrived; the received bytes are kept";
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
    incomplete: Option<IncompletePart>,
}

impl NextPart {
    /// Bytes of the part that were received before.
    fn received(&self) -> u64 {
        self.incomplete.as_ref().map_or(0, |incomplete| incomplete.size)
    }
}

/// The bytes of a part that were received, and why no more follow. Without an error, the part is
/// complete, or the body has ended.
struct PartEnd {
    received: u64,
    error: Option<Error>,
}

impl Append<'_> {
    async fn run<S>(&mut self, body: &mut Body<'_, S>) -> Result<()>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        while body.fill().await? || self.ends_in_incomplete_part() {
            let part = self.next_part()?;
            let PartEnd { received, error } = if self.is_buffered && part.size <= MAX_BUFFERED_PART {
                self.buffer_part(part, body).await?
            } else {
                self.stream_part(part, body).await?
            };
            self.position.incomplete = None;
            self.position.number += 1;
            self.offset += received;
            if let Some(error) = error {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether the body, which has ended, adds nothing to an incomplete part with all bytes up to
    /// the end of the content. This happens if the size was announced after the bytes.
    fn ends_in_incomplete_part(&self) -> bool {
        self.position.incomplete.is_some() && self.is_end(self.offset)
    }

    /// Whether the content ends at this offset. Call this when the body has ended.
    fn is_end(&self, offset: u64) -> bool {
        self.position.size.map_or(self.ends_content, |size| offset == size)
    }

    fn next_part(&mut self) -> Result<NextPart> {
        let AppendPosition { number, layout, slot_size, size, .. } = self.position;
        let incomplete = self.position.incomplete.take();
        let start = self.offset - incomplete.as_ref().map_or(0, |incomplete| incomplete.size);
        let fixed = match layout {
            Some(layout) => layout.range(number).map(|range| range.end - range.start),
            None => Some(slot_size.unwrap_or(DEFAULT_PART_SIZE)),
        };
        let size = fixed.map(|fixed| fixed.min(size.map_or(u64::MAX, |size| size.saturating_sub(start))));
        match size {
            Some(size) if size > 0 && number <= self.uploads.limits.max_parts => {
                Ok(NextPart { number, size, incomplete })
            }
            _ => Err(Error::new(ErrorCode::TooLarge, "the body has more bytes than the upload takes")),
        }
    }

    /// Writes a part while it arrives.
    async fn stream_part<S>(&mut self, part: NextPart, body: &mut Body<'_, S>) -> Result<PartEnd>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        // A remote store must know the length of a part. If the body does not have the rest of the
        // part, its bytes become an object of their own.
        let rest = self.offset + (part.size - part.received());
        let is_prefix = self.is_buffered && self.end.is_none_or(|end| end < rest);
        let write = if let Some(IncompletePart { id, key: None, .. }) = &part.incomplete {
            PartWrite::resume(self.uploads, self.uid, *id).await?
        } else {
            self.begin(part.number, Some(part.size).filter(|_| !is_prefix)).await?
        };
        let size = if is_prefix { SizeHint::Unknown } else { SizeHint::Exact(part.size) };
        let mut incoming = write.open(self.uploads, &self.options, size).await?;
        if let Some(incomplete) = &part.incomplete {
            for bytes in self.earlier_bytes(&part, incomplete, incoming.multipart()).await? {
                match incomplete.key {
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
    async fn buffer_part<S>(&mut self, part: NextPart, body: &mut Body<'_, S>) -> Result<PartEnd>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        let mut chunks: Vec<Bytes> = Vec::new();
        if let Some(incomplete) = &part.incomplete {
            chunks = self.earlier_bytes(&part, incomplete, None).await?;
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
        let is_whole = size == part.size || error.is_none() && self.ends_content;
        let write = self.begin(part.number, is_whole.then_some(size)).await?;
        let mut incoming = write.open(self.uploads, &self.options, SizeHint::Exact(size)).await?;
        for bytes in chunks {
            incoming.write(bytes).await?;
        }
        self.end_part(incoming, is_whole, received, error).await
    }

    /// Records the intent to write a part of `size` bytes; `None` if bytes of the part will be
    /// missing.
    async fn begin(&self, number: u32, size: Option<u64>) -> Result<PartWrite> {
        let (uploads, uid, max_size) = (self.uploads.clone(), self.uid, self.options.constraints.max_size);
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
        let is_stored = is_whole || error.is_none() && self.ends_content;
        // The parts before are committed first: the offset of an upload never has a gap.
        self.wait_for_commit().await?;
        let constraints = self.options.constraints.clone();
        if let Some(unchecked) = &mut self.unchecked {
            let publishing = self.uploads.detached_work.spawn(incoming.publish(is_stored));
            unchecked.push(publishing.await.map_err(Error::internal)??);
            return Ok(PartEnd { received, error });
        }
        let committing = self.uploads.detached_work.spawn(async move {
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
            let recording = self
                .uploads
                .detached_work
                .spawn(async move { durable.record(&uploads, uid, constraints).await });
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

    /// Reads the bytes of a suspended part: from an object, or from their slot in `slot`. If the
    /// store has lost or damaged them, drops the part, and fails with `OffsetMismatch`.
    async fn earlier_bytes(
        &self,
        part: &NextPart,
        incomplete: &IncompletePart,
        slot: Option<&PartTarget>,
    ) -> Result<Vec<Bytes>> {
        let store = self.position.store.as_deref().unwrap_or_else(|| self.uploads.stores.name_for_new());
        let opened = match (&incomplete.key, slot) {
            (Some(key), _) => self.uploads.stores.get(store)?.open(key, 0..incomplete.size).await,
            (None, Some(slot)) => {
                let AppendPosition { layout, slot_size, .. } = self.position;
                let slot_size = layout.map(|layout| layout.part_size).or(slot_size).unwrap_or_default();
                let start = u64::from(part.number - 1) * slot_size;
                let range = start..start + incomplete.size;
                let multipart = self.uploads.stores.multipart(store)?;
                multipart.open_incomplete(&slot.key, &slot.upload_id, range).await
            }
            (None, None) => return Err(Error::internal("a suspended part has no bytes")),
        };
        let read = match opened {
            Ok(bytes) => bytes.try_collect::<Vec<_>>().await,
            Err(error) => Err(error),
        };
        let is_intact = match &read {
            Ok(bytes) => incomplete.blake3.is_none_or(|known| known == self.hash(part, bytes)),
            Err(error) => !matches!(error.kind, ErrorKind::NotFound | ErrorKind::Truncated),
        };
        if is_intact {
            return Ok(read?);
        }
        tracing::error!(
            uid = %self.uid,
            part = part.number,
            "the bytes of an incomplete part are lost or damaged; they must be sent again"
        );
        self.uploads.meta.uploads.drop_incomplete_part(self.uid, incomplete.id).await?;
        Err(Error::offset_mismatch(self.offset - incomplete.size))
    }

    /// The BLAKE3 of the first bytes of a part, as it is recorded when the part is suspended.
    fn hash(&self, part: &NextPart, bytes: &[Bytes]) -> [u8; 32] {
        let layout = self.position.layout.filter(|layout| layout.parts() > 1);
        let subtree_offset = layout.and_then(|layout| layout.range(part.number)).map(|range| range.start);
        let mut digester = Digester::new(DigestSelection { subtree_offset, ..DigestSelection::default() });
        for bytes in bytes {
            digester.update(bytes);
        }
        digester.finish().blake3
    }
}
