//! Takes a body off a client into the store.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use osproxy_api::ErrorCode;
pub use osproxy_storage::SizeHint;
use osproxy_storage::{BufferReservation, Digests, ErrorKind, Key, ObjectWriter, UNKNOWN_PART, Wanted};

use super::{App, Attempt};
use crate::{Error, Result, content_type::Sniffer, meta::Claims};

/// Content that has come in and is not published yet. Dropped, it leaves nothing in the store.
pub struct Received {
    /// Publishes it.
    pub writer: Box<dyn ObjectWriter>,
    /// Of what came.
    pub digests: Digests,
    /// MIME type that the first bytes speak of, with a charset if all of it is UTF-8 text.
    pub sniffed: Option<&'static str>,
    /// The memory that is counted for what the writer keeps.
    pub buffers: Option<Arc<BufferReservation>>,
}

/// The most that a body may have, and what it is.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Such as `file`.
    pub what: &'static str,
    /// In bytes.
    pub max: u64,
}

impl Bound {
    fn check(self, size: u64) -> Result<()> {
        let Self { what, max } = self;
        if size > max {
            let message = format!("a {what} must not be larger than {max} bytes");
            return Err(Error::new(ErrorCode::TooLarge, message));
        }
        Ok(())
    }
}

/// Where a body goes.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// Under a key.
    Object(&'a Key),
    /// Into an upload of the store's for a key, as the part of this number.
    Part(&'a Key, &'a str, u32),
}

/// Longest body that is kept until its length is known, in bytes.
const KEPT: u64 = UNKNOWN_PART;

/// What is a small piece of it, in bytes.
const SMALL: usize = 4096;

/// Finds out the length of a body that does not tell it, by waiting for its end, if it is short. One that is too large is
/// refused as soon as that shows.
pub async fn measured(
    bound: Bound,
    size: SizeHint,
    mut body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<(SizeHint, impl Stream<Item = Result<Bytes>> + Send + Unpin)> {
    // What stands around the content of a form is little.
    let is_short = !matches!(size, SizeHint::Exact(_)) && size.at_most().unwrap_or(0) <= KEPT + (64 << 10);
    let (mut kept, mut length, mut ended) = (Vec::<Bytes>::new(), 0, false);
    // What comes in small pieces is put together: each has a price of its own.
    let mut small = BytesMut::new();
    while is_short && !ended && length <= KEPT {
        match body.next().await {
            Some(bytes) => {
                let bytes = bytes?;
                length += bytes.len() as u64;
                bound.check(length)?;
                if bytes.len() < SMALL {
                    small.extend_from_slice(&bytes);
                    if small.len() >= SMALL {
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
    /// Takes a body off the client: all of it, or an error. What is announced as too large is refused before any of it
    /// is read. The digests are those that are `wanted`.
    pub async fn receive(
        &self,
        store: &str,
        target: Target<'_>,
        wanted: Wanted,
        bound: Bound,
        size: SizeHint,
        mut body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
    ) -> Result<Received> {
        if let SizeHint::Exact(size) = size {
            bound.check(size)?;
        }
        let _running = self.metrics.uploads.begin();
        let mut writer = self.writer(store, target, size).await?;
        writer.want(wanted);
        let mut content_type = Sniffer::default();
        let mut received = 0;
        while let Some(bytes) = body.next().await {
            let bytes = bytes?;
            received += bytes.len() as u64;
            bound.check(received)?;
            if let SizeHint::Exact(size) = size
                && received > size
            {
                let message = format!("there are more bytes than the {size} that there must be");
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

    async fn writer(&self, store: &str, target: Target<'_>, size: SizeHint) -> Result<Box<dyn ObjectWriter>> {
        Ok(match target {
            Target::Object(key) => self.stores.get(store)?.create(key, size).await?,
            Target::Part(key, upload, number) => {
                let SizeHint::Exact(size) = size else {
                    return Err(Error::internal("a part whose size is not known"));
                };
                self.stores.multipart(store)?.create_part(key, upload, number, size).await?
            }
        })
    }
}

/// Refuses content that has not the digests that were announced with it.
pub fn check_claims(claims: &Claims, digests: &Digests) -> Result<()> {
    match claims.refuted_by(digests) {
        Some((name, found)) => Err(Error::new(
            ErrorCode::DigestMismatch,
            format!("the content's {name} is {found}, not the one announced"),
        )),
        None => Ok(()),
    }
}

/// Publishes what is not published yet.
pub async fn publish(attempt: &mut Attempt, unpublished: &mut Option<Box<dyn ObjectWriter>>) -> Result<()> {
    let Some(writer) = unpublished.take() else {
        return Ok(());
    };
    if let Err(error) = writer.publish().await {
        match error.kind {
            ErrorKind::Other if error.retryable => attempt.may_appear_later(),
            ErrorKind::Exists => attempt.keep_object(),
            _ => {}
        }
        return Err(error.into());
    }
    Ok(())
}
