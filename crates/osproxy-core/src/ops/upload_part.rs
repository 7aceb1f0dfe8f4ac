//! Upload one part of a file.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use osproxy_storage::{Digests, SizeHint};
use osproxy_types::uid::Uid;

use super::{UploadOps, UploadOptions};
use crate::{
    Error, Result, boxed_future,
    session::{self, BodyDigest, Piece, WriteRequest},
};

/// Stores `body` as part `number` of `uid` and returns when it is durable. The part must have the
/// digests expected in `options` and meet the constraints of the link. Its BLAKE3, and its MD5 if
/// selected or expected, are recorded to detect later damage to the part.
///
/// Parts may arrive in any order and concurrently. Sending a part again replaces it; of concurrent
/// writes of the same part, the last to end counts. A write that fails leaves nothing behind, and
/// an earlier part with this number stays.
///
/// Returns the computed digests of the part.
#[boxed_future]
pub async fn upload_part<'a>(
    uploads: &'a Arc<UploadOps>,
    uid: Uid,
    number: u32,
    mut options: UploadOptions,
    size: SizeHint,
    body: BoxStream<'a, Result<Bytes>>,
) -> Result<Digests> {
    check_number(uploads, number)?;
    // A part of an announced size is hashed as a subtree of the content, which is not its BLAKE3.
    let body = match options.expected.blake3.take() {
        Some(blake3) => session::verify_body(body, BodyDigest::Blake3(blake3)),
        None => body,
    };
    let request = WriteRequest { uid, piece: Piece::Part(number), options, size };
    Ok(session::write(uploads, request, body).await?.digests)
}

/// Fails with `InvalidArgument` unless `number` is an allowed part number.
pub fn check_number(uploads: &UploadOps, number: u32) -> Result<()> {
    let max = uploads.limits.max_parts;
    if (1..=max).contains(&number) {
        return Ok(());
    }
    Err(Error::invalid(format!("a part number must be 1 to {max}")))
}
