//! Takes a body off a client into the store.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use osproxy_api::ErrorCode;
use osproxy_storage::{Digests, Key, ObjectWriter};

use super::App;
use crate::{Error, Result, content_type};

/// What is known of a body's length before it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeHint {
    /// So many bytes, or the body is broken.
    Exact(u64),
    /// Not more than so many bytes.
    AtMost(u64),
    /// Nothing.
    Unknown,
}

/// Content that has come in and is not published yet. Dropped, it leaves nothing in the store.
pub struct Received {
    /// Publishes it.
    pub writer: Box<dyn ObjectWriter>,
    /// Of what came.
    pub digests: Digests,
    /// MIME type that the first bytes speak of.
    pub sniffed: Option<&'static str>,
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

impl App {
    /// Takes a body off the client: all of it, or an error. What is announced as too large is refused before any of it
    /// is read.
    pub async fn receive(
        &self,
        key: &Key,
        bound: Bound,
        size: SizeHint,
        mut body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
    ) -> Result<Received> {
        if let SizeHint::Exact(size) = size {
            bound.check(size)?;
        }
        let hint = match size {
            SizeHint::Exact(size) | SizeHint::AtMost(size) => Some(size),
            SizeHint::Unknown => None,
        };
        let mut writer = self.storage.create(key, hint).await?;
        let mut head = Vec::new();
        let mut received = 0;
        while let Some(bytes) = body.next().await {
            let bytes = bytes?;
            received += bytes.len() as u64;
            bound.check(received)?;
            if head.len() < content_type::HEAD {
                let missing = (content_type::HEAD - head.len()).min(bytes.len());
                head.extend_from_slice(bytes.get(..missing).unwrap_or_default());
            }
            writer.write(bytes).await?;
        }
        if let SizeHint::Exact(size) = size
            && size != received
        {
            return Err(Error::new(ErrorCode::IncompleteBody, "the body ended before it was complete"));
        }
        Ok(Received { digests: writer.finish().await?, writer, sniffed: content_type::sniff(&head) })
    }
}

/// Refuses content that has not the md5 that was announced with it.
pub fn check_md5(claimed: Option<[u8; 16]>, digests: &Digests) -> Result<()> {
    match claimed {
        Some(claimed) if claimed != digests.md5 => Err(Error::new(
            ErrorCode::DigestMismatch,
            format!("the content's md5 is {}, not the one announced", hex::encode(digests.md5)),
        )),
        _ => Ok(()),
    }
}

/// Publishes what is not published yet.
pub async fn publish(unpublished: &mut Option<Box<dyn ObjectWriter>>) -> Result<()> {
    match unpublished.take() {
        Some(writer) => Ok(writer.publish().await?),
        None => Ok(()),
    }
}
