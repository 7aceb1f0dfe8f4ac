//! Append to an upload, whose bytes arrive in the order of the content.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use osproxy_api::ErrorCode;
use osproxy_meta::{
    AnnounceSizeOutcome, AppendPosition, CompleteRequest, ExpectedDigests, FileRecord, FileState,
};
use osproxy_storage::SizeHint;
use osproxy_types::uid::Uid;

use super::{
    UploadOps, UploadOptions, complete_upload::complete_upload, state_error, too_large_error,
    unknown_uid_error,
};
use crate::{
    Error, Result,
    appends::Turn,
    boxed_future,
    links::LinkConstraints,
    session::{self, AppendRequest, Piece, WriteRequest},
};

pub use crate::session::BodyDigest;

/// Bytes to append.
#[derive(Clone, Debug)]
pub struct AppendSpec {
    /// Where the client assumes the end of the received bytes.
    pub offset: u64,
    /// What is known about the length of the body.
    pub size: SizeHint,
    /// Whether the content ends with the body.
    pub ends_content: bool,
    /// Digest that the body must have.
    pub checksum: Option<BodyDigest>,
}

/// Progress of an upload whose bytes arrive in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadOffset {
    /// Durable bytes from the start of the content up to the first missing byte.
    pub offset: u64,
    /// Size of the content in bytes, if it is known.
    pub size: Option<u64>,
    /// Whether the file is complete and can be read.
    pub is_complete: bool,
}

/// Appends `body` to the bytes that were received of `uid`. Completes the upload when all bytes of
/// the content are there. Returns when the bytes are durable. Fails with `OffsetMismatch` if the
/// received bytes do not end at the offset in `spec`.
///
/// If the body breaks off, the bytes that have arrived stay, and the client continues after them.
/// (On a remote store, parts of more than 16 MiB stay only if they are complete.) A newer call for
/// the same upload on this node ends an older one.
///
/// If the body does not have the digest in `spec`, or breaks off before its digest is known,
/// nothing of it is kept. In the first case, fails with `DigestMismatch`.
///
/// Continues if the future is dropped, until the body ends.
#[boxed_future]
pub async fn append_upload(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    spec: AppendSpec,
    constraints: LinkConstraints,
    body: BoxStream<'static, Result<Bytes>>,
) -> Result<UploadOffset> {
    let (uploads, detached_work) = (uploads.clone(), uploads.detached_work.clone());
    let appending = async move {
        let turn = uploads.appends.take_turn(uid).await?;
        append(uploads, turn, uid, spec, constraints, body).await
    };
    // Spawned: if the client disconnects, what has arrived is still made durable.
    detached_work.spawn_here(appending).await.map_err(Error::internal)?
}

async fn append(
    uploads: Arc<UploadOps>,
    mut turn: Turn,
    uid: Uid,
    spec: AppendSpec,
    constraints: LinkConstraints,
    mut body: BoxStream<'static, Result<Bytes>>,
) -> Result<UploadOffset> {
    let AppendSpec { offset, size, ends_content, checksum } = spec;
    let options = UploadOptions { constraints: constraints.clone(), ..UploadOptions::default() };
    if offset == 0 && checksum.is_none() && is_small_and_whole(&uploads, uid, size, ends_content).await? {
        let request = WriteRequest { uid, piece: Piece::Whole, options, size };
        session::write(&uploads, request, &mut body).await?;
        let size = if let SizeHint::Exact(size) = size { Some(size) } else { None };
        return Ok(UploadOffset { offset: size.unwrap_or(0), size, is_complete: true });
    }
    let position = session::open_position(&uploads, uid).await?;
    if position.state == FileState::Stored && position.offset == offset {
        return Ok(UploadOffset { offset, size: position.size, is_complete: true });
    }
    let request = AppendRequest { uid, offset, options, size, ends_content, checksum };
    session::append(&uploads, &mut turn, request, body).await?;
    // Concurrent requests over other protocols may have sent the bytes that follow.
    let AppendPosition { offset, size, .. } = session::open_position(&uploads, uid).await?;
    let is_complete = size.map_or(ends_content, |size| size == offset);
    if is_complete {
        complete(&uploads, uid, offset, &constraints).await?;
    }
    Ok(UploadOffset { offset, size, is_complete })
}

/// Whether a body is the whole content of an upload that has received nothing, and is so small that
/// it is stored in one step.
async fn is_small_and_whole(
    uploads: &UploadOps,
    uid: Uid,
    size: SizeHint,
    ends_content: bool,
) -> Result<bool> {
    let SizeHint::Exact(size) = size else {
        return Ok(false);
    };
    if size > uploads.stores.max_packed_size() {
        return Ok(false);
    }
    let position = session::open_position(uploads, uid).await?;
    Ok(position.state == FileState::Pending && position.size.map_or(ends_content, |all| all == size))
}

/// Returns how many bytes of `uid` are durable. Ends a request that appends to the upload on this
/// node. Completes the upload if all bytes are there and an earlier request could not complete it.
#[boxed_future]
pub async fn upload_offset(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    constraints: &LinkConstraints,
) -> Result<UploadOffset> {
    let turn = uploads.appends.take_turn(uid).await?;
    let AppendPosition { state, offset, size, .. } = session::open_position(uploads, uid).await?;
    let is_complete = state == FileState::Stored;
    if is_complete || size != Some(offset) {
        return Ok(UploadOffset { offset, size, is_complete });
    }
    let nothing = AppendSpec { offset, size: SizeHint::Exact(0), ends_content: true, checksum: None };
    let completing =
        append(uploads.clone(), turn, uid, nothing, constraints.clone(), stream::empty().boxed());
    // Spawned, so that it continues if the client disconnects.
    uploads.detached_work.spawn(completing).await.map_err(Error::internal)?
}

async fn complete(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    size: u64,
    constraints: &LinkConstraints,
) -> Result<()> {
    if size == 0 {
        let request = WriteRequest {
            uid,
            piece: Piece::Whole,
            options: UploadOptions { constraints: constraints.clone(), ..UploadOptions::default() },
            size: SizeHint::Exact(0),
        };
        return session::write(uploads, request, stream::empty().boxed()).await.map(drop);
    }
    let request = CompleteRequest { parts: None, size: Some(size), expected: ExpectedDigests::default() };
    complete_upload(uploads, uid, request, constraints).await
}

/// Announces the size of the content of an upload that was created without one. Charges the size to
/// the tenant. Does nothing if the same size was announced before. Fails with `InvalidArgument` if
/// another size was announced, and with `SizeMismatch` if more bytes were received.
#[boxed_future]
pub async fn announce_size(
    uploads: &UploadOps,
    uid: Uid,
    size: u64,
    constraints: &LinkConstraints,
) -> Result<()> {
    let max = uploads.limits.max_size.min(constraints.max_size.unwrap_or(u64::MAX));
    if size > max {
        return Err(too_large_error(max));
    }
    match uploads.meta.uploads.announce_size(uid, size).await? {
        AnnounceSizeOutcome::Announced => Ok(()),
        AnnounceSizeOutcome::Differs(announced) => {
            Err(Error::invalid(format!("the size of the content was announced as {announced} bytes before")))
        }
        AnnounceSizeOutcome::TooSmall(received) => {
            let message = format!("{received} bytes were received already");
            Err(Error::new(ErrorCode::SizeMismatch, message))
        }
        AnnounceSizeOutcome::OverQuota => Err(Error::quota_exceeded()),
        AnnounceSizeOutcome::Closed(state) => Err(state_error(state)),
        AnnounceSizeOutcome::Unknown => Err(unknown_uid_error()),
    }
}

/// Returns the record of an upload: its name, metadata and expiry.
#[boxed_future]
pub async fn describe_upload(uploads: &UploadOps, uid: Uid) -> Result<FileRecord> {
    uploads.meta.files.record(uid).await?.ok_or_else(unknown_uid_error)
}
