//! Upload the whole content of a file in one request.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
pub use osproxy_meta::{ExpectedDigests, UploadProgress};
pub use osproxy_storage::{DigestSelection, SizeHint};
use osproxy_types::uid::Uid;

use super::{UploadOps, UploadOptions};
use crate::{
    Result, boxed_future,
    session::{self, Piece, WriteRequest},
};

/// Stores `body` as the content of `uid` and returns when it is durable. The content must meet the
/// constraints of the link, and must have the expected digests: those in `options`, or else those
/// announced when the upload was created.
///
/// Concurrent writes for one uid are allowed. The first to end wins; every other write succeeds if
/// it sent the same content. A write that fails, or is dropped before the whole body has arrived,
/// leaves nothing behind.
///
/// Returns the status of the upload if it is known without reading the database.
#[boxed_future]
pub async fn upload_file<'a>(
    uploads: &'a Arc<UploadOps>,
    uid: Uid,
    options: UploadOptions,
    size: SizeHint,
    body: BoxStream<'a, Result<Bytes>>,
) -> Result<Option<UploadProgress>> {
    let request = WriteRequest { uid, piece: Piece::Whole, options, size };
    Ok(session::write(uploads, request, body).await?.progress)
}
