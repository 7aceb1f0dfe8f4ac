//! Streams a request body into a store.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use osproxy_api::ErrorCode;
pub use osproxy_storage::SizeHint;
use osproxy_storage::{
    BufferReservation, DigestSelection, Digests, ErrorKind, Key, ObjectWriter, UNKNOWN_PART,
};

use crate::{App, WriteGuard};
use crate::{Error, Result};
use osproxy_meta::ExpectedDigests;
use osproxy_types::content_type::Sniffer;

/// Content that was received but not published. Dropped, it leaves nothing in the store.
pub struct Received {
    /// Publishes the content.
    pub writer: Box<dyn ObjectWriter>,
    /// Computed digests of the content.
    pub digests: Digests,
    /// MIME type detected from the first bytes, with a charset if all of it is UTF-8 text.
    pub sniffed: Option<&'static str>,
    /// Reservation of the buffers that the writer holds.
    pub buffers: Option<Arc<BufferReservation>>,
}

/// Maximum size of a body.
#[derive(Clone, Copy, Debug)]
pub struct SizeLimit {
    /// Noun for the error message, such as `file`.
    pub subject: &'static str,
    /// In bytes.
    pub max: u64,
}

impl SizeLimit {
    fn check(self, size: u64) -> Result<()> {
        let Self { subject: what, max } = self;
        if size > max {
            let message = format!("a {what} must not be larger than {max} bytes");
            return Err(Error::new(ErrorCode::TooLarge, message));
        }
        Ok(())
    }
}

/// Write target of a body.
#[derive(Clone, Copy)]
pub enum WriteTarget<'a> {
    /// An object under this key.
    Object(&'a Key),
    /// A part of a multipart upload: the key of its object, the store's upload id, the part number.
    MultipartPart(&'a Key, &'a str, u32),
}

/// Longest body that is buffered to find out its length, in bytes.
const MAX_BUFFERED: u64 = UNKNOWN_PART;

/// Chunks below this size, in bytes, are coalesced.
const COALESCE_BELOW: usize = 4096;

/// Finds out the length of a short body of unknown length, by buffering it to its end. Fails as
/// soon as the body exceeds `bound`.
pub async fn buffer_short_body(
    bound: SizeLimit,
    size: SizeHint,
    mut body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<(SizeHint, impl Stream<Item = Result<Bytes>> + Send + Unpin)> {
    // A multipart form adds only a few bytes to the content.
    let is_short =
        !matches!(size, SizeHint::Exact(_)) && size.at_most().unwrap_or(0) <= MAX_BUFFERED + (64 << 10);
    let (mut kept, mut length, mut ended) = (Vec::<Bytes>::new(), 0, false);
    // Small chunks are coalesced, because each chunk has a fixed cost.
    let mut small = BytesMut::new();
    while is_short && !ended && length <= MAX_BUFFERED {
        match body.next().await {
            Some(bytes) => {
                let bytes = bytes?;
                length += bytes.len() as u64;
                bound.check(length)?;
                if bytes.len() < COALESCE_BELOW {
                    small.extend_from_slice(&bytes);
                    if small.len() >= COALESCE_BELOW {
                        kept.push(small.split().freeze());
                    }
                    continue;
                }
                if !small.is_empty() {
                    kept.push(small.split().freeze());
                }
                kept.push(bytes);
            }
            None => ended = true,
        }
    }
    if !small.is_empty() {
        kept.push(small.freeze());
    }
    let size = if ended { SizeHint::Exact(length) } else { size };
    Ok((size, stream::iter(kept.into_iter().map(Ok)).chain(body)))
}

impl App {
    /// Streams a body to `target` and returns once all of it has arrived. Fails before reading the
    /// body if the announced size exceeds `bound`. Computes the digests in `selection`.
    pub async fn receive(
        &self,
        store: &str,
        target: WriteTarget<'_>,
        selection: DigestSelection,
        bound: SizeLimit,
        size: SizeHint,
        mut body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
    ) -> Result<Received> {
        if let SizeHint::Exact(size) = size {
            bound.check(size)?;
        }
        let _running = self.metrics.uploads.begin();
        let mut writer = self.writer(store, target, size).await?;
        writer.select_digests(selection);
        let mut content_type = Sniffer::default();
        let mut received = 0;
        while let Some(bytes) = body.next().await {
            let bytes = bytes?;
            received += bytes.len() as u64;
            bound.check(received)?;
            if let SizeHint::Exact(size) = size
                && received > size
            {
                let message = format!("the body has more than the expected {size} bytes");
                return Err(Error::new(ErrorCode::SizeMismatch, message));
            }
            content_type.update(&bytes);
            writer.write(bytes).await?;
        }
        if let SizeHint::Exact(size) = size
            && size != received
        {
            return Err(Error::new(ErrorCode::IncompleteBody, "the body ended before it was complete"));
        }
        let (digests, sniffed) = (writer.finish().await?, content_type.finish());
        Ok(Received { writer, digests, sniffed, buffers: None })
    }

    async fn writer(
        &self,
        store: &str,
        target: WriteTarget<'_>,
        size: SizeHint,
    ) -> Result<Box<dyn ObjectWriter>> {
        Ok(match target {
            WriteTarget::Object(key) => self.stores.get(store)?.create(key, size).await?,
            WriteTarget::MultipartPart(key, upload, number) => {
                let SizeHint::Exact(size) = size else {
                    return Err(Error::internal("the size of a part is not known"));
                };
                self.stores.multipart(store)?.create_part(key, upload, number, size).await?
            }
        })
    }
}

/// Fails with `DigestMismatch` if the content does not have the expected digests.
pub fn check_digests(expected: &ExpectedDigests, digests: &Digests) -> Result<()> {
    match expected.first_mismatch(digests) {
        Some((name, found)) => Err(Error::new(
            ErrorCode::DigestMismatch,
            format!("the {name} of the content is {found}, which differs from the expected digest"),
        )),
        None => Ok(()),
    }
}

/// Publishes the writer, unless that was done before. On failure, sets what the write guard may
/// clean up.
pub async fn publish_once(
    guard: &mut WriteGuard,
    unpublished: &mut Option<Box<dyn ObjectWriter>>,
) -> Result<()> {
    let Some(writer) = unpublished.take() else {
        return Ok(());
    };
    if let Err(error) = writer.publish().await {
        match error.kind {
            ErrorKind::Other if error.retryable => guard.leave_to_sweep(),
            ErrorKind::Exists => guard.keep_object(),
            _ => {}
        }
        return Err(error.into());
    }
    Ok(())
}
