//! Streams a request body into a store.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use osproxy_api::ErrorCode;
use osproxy_meta::ExpectedDigests;
use osproxy_storage::{
    BufferReservation, DigestSelection, Digests, Key, ObjectWriter, SizeHint, UNKNOWN_PART,
};
use osproxy_types::content_type::Sniffer;

use crate::{Error, Result, ops::UploadOps};

/// Content that was received but not published. Dropping it removes the stored bytes.
pub(super) struct Received {
    /// Publishes the content.
    pub(super) writer: Box<dyn ObjectWriter>,
    /// Computed digests of the content.
    pub(super) digests: Digests,
    /// MIME type detected from the first bytes, with a charset if the whole content is UTF-8 text.
    pub(super) sniffed: Option<&'static str>,
    /// Memory of the buffers that the writer holds.
    pub(super) buffers: Option<Arc<BufferReservation>>,
}

/// Maximum size of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct SizeLimit {
    /// Noun for the error message, such as `file`.
    pub(super) subject: &'static str,
    /// In bytes.
    pub(super) max: u64,
}

impl SizeLimit {
    pub(super) fn check(self, size: u64) -> Result<()> {
        let Self { subject, max } = self;
        if size > max {
            let message = format!("a {subject} must not be larger than {max} bytes");
            return Err(Error::new(ErrorCode::TooLarge, message));
        }
        Ok(())
    }
}

/// Where a body goes, and its limits.
pub(super) struct Destination<'a> {
    pub(super) store: &'a str,
    pub(super) target: WriteTarget<'a>,
    /// The digests to compute in addition to BLAKE3.
    pub(super) digests: DigestSelection,
    pub(super) limit: SizeLimit,
    /// What is known about the length of the body.
    pub(super) size: SizeHint,
}

/// The write target of a body.
#[derive(Clone, Copy)]
pub(super) enum WriteTarget<'a> {
    /// A new object, for the whole content or for a part that is merged later.
    Object(&'a Key),
    /// A part of the store's multipart upload; in a store that preallocates files, the slot of the
    /// part.
    MultipartPart { key: &'a Key, upload_id: &'a str, number: u32 },
}

/// Maximum size, in bytes, of a body that is buffered to find out its length.
const MAX_BUFFERED: u64 = UNKNOWN_PART;

/// Chunks below this size, in bytes, are coalesced.
const COALESCE_BELOW: usize = 4096;

/// Buffered chunks. Small chunks are coalesced, because each chunk has a fixed cost.
#[derive(Default)]
pub(super) struct ChunkBuffer {
    chunks: Vec<Bytes>,
    small: BytesMut,
}

impl ChunkBuffer {
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.len() >= COALESCE_BELOW {
            self.end_small();
            self.chunks.push(bytes);
            return;
        }
        self.small.extend_from_slice(&bytes);
        if self.small.len() >= COALESCE_BELOW {
            self.end_small();
        }
    }

    fn end_small(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push(self.small.split().freeze());
        }
    }

    pub(super) fn into_chunks(mut self) -> Vec<Bytes> {
        self.end_small();
        self.chunks
    }
}

/// Finds out the length of a body by buffering it, if `size` is not exact and allows a short body.
/// If the body ends within [`MAX_BUFFERED`] bytes, the returned size is exact; otherwise, `size` is
/// returned unchanged. The returned body yields all bytes of `body`. Fails with `TooLarge` as soon
/// as the buffered bytes exceed `limit`.
pub(super) async fn buffer_short_body(
    limit: SizeLimit,
    size: SizeHint,
    mut body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<(SizeHint, impl Stream<Item = Result<Bytes>> + Send + Unpin)> {
    // The upper bound of the length may include the few bytes that a multipart form adds.
    let is_short =
        !matches!(size, SizeHint::Exact(_)) && size.at_most().unwrap_or(0) <= MAX_BUFFERED + (64 << 10);
    let (mut kept, mut length, mut ended) = (ChunkBuffer::default(), 0, false);
    while is_short && !ended && length <= MAX_BUFFERED {
        match body.next().await {
            Some(bytes) => {
                let bytes = bytes?;
                length += bytes.len() as u64;
                limit.check(length)?;
                kept.push(bytes);
            }
            None => ended = true,
        }
    }
    let size = if ended { SizeHint::Exact(length) } else { size };
    Ok((size, stream::iter(kept.into_chunks().into_iter().map(Ok)).chain(body)))
}

/// Streams a body to its destination, and returns when all of it has arrived. Fails before reading
/// the body if its declared size exceeds the limit.
pub(super) async fn receive(
    uploads: &UploadOps,
    destination: Destination<'_>,
    mut body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<Received> {
    let Destination { store, target, digests, limit, size } = destination;
    if let SizeHint::Exact(size) = size {
        limit.check(size)?;
    }
    let mut writer = match target {
        WriteTarget::Object(key) => uploads.stores.get(store)?.create(key, size).await?,
        WriteTarget::MultipartPart { key, upload_id, number } => {
            let SizeHint::Exact(size) = size else {
                return Err(Error::internal("the size of a part is not known"));
            };
            uploads.stores.multipart(store)?.create_part(key, upload_id, number, size).await?
        }
    };
    writer.select_digests(digests);
    let mut content_type = Sniffer::default();
    let mut received = 0;
    while let Some(bytes) = body.next().await {
        let bytes = bytes?;
        received += bytes.len() as u64;
        limit.check(received)?;
        check_not_longer(size, received)?;
        content_type.update(&bytes);
        writer.write(bytes).await?;
    }
    check_not_shorter(size, received)?;
    let (digests, sniffed) = (writer.finish().await?, content_type.finish());
    Ok(Received { writer, digests, sniffed, buffers: None })
}

/// Fails with `SizeMismatch` if more than the exact size was received.
pub(super) fn check_not_longer(size: SizeHint, received: u64) -> Result<()> {
    match size {
        SizeHint::Exact(size) if received > size => {
            let message = format!("the body has more than the expected {size} bytes");
            Err(Error::new(ErrorCode::SizeMismatch, message))
        }
        _ => Ok(()),
    }
}

/// Fails with `IncompleteBody` if less than the exact size was received when the body ended.
pub(super) fn check_not_shorter(size: SizeHint, received: u64) -> Result<()> {
    match size {
        SizeHint::Exact(size) if received < size => {
            Err(Error::new(ErrorCode::IncompleteBody, "the body ended before it was complete"))
        }
        _ => Ok(()),
    }
}

/// Fails with `DigestMismatch` if the content does not have the expected digests.
pub(super) fn check_digests(expected: &ExpectedDigests, digests: &Digests) -> Result<()> {
    match expected.first_mismatch(digests) {
        Some((name, found)) => Err(Error::new(
            ErrorCode::DigestMismatch,
            format!("the {name} of the content is {found}, which differs from the expected digest"),
        )),
        None => Ok(()),
    }
}
