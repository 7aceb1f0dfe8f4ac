//! Append to an upload, whose bytes arrive in the order of the content.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use osproxy_api::ErrorCode;
use osproxy_meta::{
    AnnounceSizeOutcome, AppendPosition, CompleteRequest, Concatenation, ExpectedDigests, FileRecord,
    FileState,
};
use osproxy_storage::SizeHint;
use osproxy_types::{error_chain, uid::Uid};

use super::{
    UploadOps, UploadOptions, abort_upload::abort_upload, complete_upload::complete_upload, state_error,
    too_large_error, unknown_uid_error,
};
use crate::{
    Error, Result,
    appends::AppendLock,
    boxed_future,
    links::LinkConstraints,
    session::{self, AppendRequest, Piece, WriteRequest},
};

pub use crate::session::BodyDigest;

/// Bytes to append.
#[derive(Clone, Debug)]
pub struct AppendSpec {
    /// Offset of the first byte of the body. Must equal the offset of the upload.
    pub offset: u64,
    /// What is known about the length of the body.
    pub size: SizeHint,
    /// Whether the content ends with the body.
    pub ends_content: bool,
    /// Digest that the body must have.
    pub checksum: Option<BodyDigest>,
    /// Size of the content, if the client announces it with this body.
    pub announced_size: Option<u64>,
}

/// Progress of an upload whose bytes arrive in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadOffset {
    /// Durable bytes from the start of the content up to the first missing byte.
    pub offset: u64,
    /// Size of the content in bytes, if it is known.
    pub size: Option<u64>,
    /// Whether the file is complete and can be read, or the parts of this partial upload were moved
    /// to a final upload.
    pub is_complete: bool,
}

/// Appends `body` to the bytes that were received of `uid`. Completes the upload when all bytes of
/// the content are there. Returns when the bytes are durable. Fails with `OffsetMismatch` if the
/// received bytes do not end at the offset in `spec`.
///
/// If the body breaks off, the bytes that have arrived stay, and the client continues after them.
/// There are exceptions: a whole body of at most `local.pack_below` is stored in one step, or not at
/// all; and on a remote store, a body that announces the rest of a part of more than 8 MiB and then
/// breaks off loses the bytes of this part. A newer call for the same upload ends an older one, also
/// on another node; the older one then fails with `Superseded`.
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
    let appending = append_locked(uploads.clone(), uid, spec, constraints, body);
    // Spawned: if the client disconnects, what has arrived is still made durable.
    uploads.detached_work.spawn_here(appending).await.map_err(Error::internal)?
}

/// Like [`append_upload`], for the first bytes of an upload that was just created. If it fails, aborts
/// the upload, because the client does not know it.
#[boxed_future]
pub async fn append_new_upload(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    spec: AppendSpec,
    constraints: LinkConstraints,
    body: BoxStream<'static, Result<Bytes>>,
) -> Result<UploadOffset> {
    append_or_abort(uploads.clone(), uid, spec, constraints, body, |_| true).await
}

/// Like [`append_new_upload`], for an upload that the client already knows. Aborts the upload only
/// if its content is refused. If the body breaks off, the bytes that have arrived stay.
#[boxed_future]
pub async fn append_announced_upload(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    spec: AppendSpec,
    constraints: LinkConstraints,
    body: BoxStream<'static, Result<Bytes>>,
) -> Result<UploadOffset> {
    append_or_abort(uploads.clone(), uid, spec, constraints, body, is_refusal).await
}

/// Whether an error refuses the content, which no other request can change.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error.code,
        ErrorCode::InvalidArgument
            | ErrorCode::TooLarge
            | ErrorCode::UnsupportedMediaType
            | ErrorCode::SizeMismatch
            | ErrorCode::DigestMismatch
            | ErrorCode::FileCorrupt
    )
}

/// Appends, and aborts the upload after an error for which `is_fatal` returns `true`.
async fn append_or_abort(
    uploads: Arc<UploadOps>,
    uid: Uid,
    spec: AppendSpec,
    constraints: LinkConstraints,
    body: BoxStream<'static, Result<Bytes>>,
    is_fatal: fn(&Error) -> bool,
) -> Result<UploadOffset> {
    let detached_work = uploads.detached_work.clone();
    let appending = async move {
        let appended = append_locked(uploads.clone(), uid, spec, constraints, body).await;
        if appended.as_ref().is_err_and(is_fatal)
            // If this fails, the upload expires later.
            && let Err(error) = abort_upload(&uploads, uid).await
        {
            tracing::warn!(%uid, error = error_chain(&error), "cannot abort an upload yet");
        }
        appended
    };
    // Spawned: if the client disconnects, the upload is still aborted.
    detached_work.spawn_here(appending).await.map_err(Error::internal)?
}

/// Ends an older request for the upload, then appends.
async fn append_locked(
    uploads: Arc<UploadOps>,
    uid: Uid,
    spec: AppendSpec,
    constraints: LinkConstraints,
    body: BoxStream<'static, Result<Bytes>>,
) -> Result<UploadOffset> {
    let lock = uploads.append_locks.acquire(uid).await?;
    append(uploads, lock, uid, spec, constraints, body).await
}

async fn append(
    uploads: Arc<UploadOps>,
    mut lock: AppendLock,
    uid: Uid,
    spec: AppendSpec,
    constraints: LinkConstraints,
    mut body: BoxStream<'static, Result<Bytes>>,
) -> Result<UploadOffset> {
    let AppendSpec { offset, size, ends_content, checksum, announced_size } = spec;
    let mut position = session::settled_position(&uploads, uid).await?;
    if let Some(Concatenation::Final(_)) = position.concatenation {
        let message = "this final upload is made of partial uploads; bytes cannot be appended to it";
        return Err(Error::new(ErrorCode::PermissionDenied, message));
    }
    let is_partial = position.concatenation == Some(Concatenation::Partial);
    if position.offset != offset {
        return Err(Error::offset_mismatch(position.offset));
    }
    if let Some(size) = announced_size {
        announce_size(&uploads, uid, size, &constraints).await?;
        position.size = Some(size);
    }
    if position.state.is_complete() {
        // Other requests need not wait until this body has arrived.
        drop(lock);
        while let Some(chunk) = body.next().await.transpose()? {
            if !chunk.is_empty() {
                return Err(state_error(position.state));
            }
        }
        return Ok(UploadOffset { offset, size: position.size, is_complete: true });
    }
    if checksum.is_none()
        && let Some(size) = small_whole_size(&uploads, &position, size, ends_content)
    {
        tokio::select! {
            written = write_whole(&uploads, uid, size, &constraints, &mut body) => written?,
            () = lock.superseded() => return Err(session::superseded_error()),
        }
        return Ok(UploadOffset { offset: size, size: Some(size), is_complete: true });
    }
    let options = UploadOptions { constraints: constraints.clone(), ..UploadOptions::default() };
    let request = AppendRequest { uid, options, size, ends_content, checksum };
    session::append(&uploads, &mut lock, position, request, body).await?;
    // Concurrent requests over other protocols may have sent the bytes that follow.
    let AppendPosition { offset, size, .. } = session::open_position(&uploads, uid).await?;
    let is_complete = !is_partial && size.map_or(ends_content, |size| size == offset);
    if is_complete {
        complete(&uploads, uid, offset, &constraints).await?;
    } else if ends_content {
        let message = format!("the content ended at {offset} bytes, before its announced size");
        return Err(Error::new(ErrorCode::SizeMismatch, message));
    }
    Ok(UploadOffset { offset, size, is_complete })
}

/// Returns the size of a body that is the whole content of an upload that has received nothing, and
/// so small that it is stored in one step; `None` for other bodies.
fn small_whole_size(
    uploads: &UploadOps,
    position: &AppendPosition,
    size: SizeHint,
    ends_content: bool,
) -> Option<u64> {
    let SizeHint::Exact(size) = size else {
        return None;
    };
    let is_whole =
        position.state == FileState::Pending && position.size.map_or(ends_content, |all| all == size);
    (is_whole && size <= uploads.stores.max_packed_size()).then_some(size)
}

/// Stores a body that is the whole content.
async fn write_whole(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    size: u64,
    constraints: &LinkConstraints,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<()> {
    let options = UploadOptions { constraints: constraints.clone(), ..UploadOptions::default() };
    let request = WriteRequest { uid, piece: Piece::Whole, options, size: SizeHint::Exact(size) };
    session::write(uploads, request, body).await.map(drop)
}

/// Returns how many bytes of `uid` are durable. Ends a request that appends to the upload, also on
/// another node. Completes the upload if all bytes are there and an earlier request could not complete it.
#[boxed_future]
pub async fn upload_offset(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    constraints: &LinkConstraints,
) -> Result<UploadOffset> {
    let lock = uploads.append_locks.acquire(uid).await?;
    let position = uploads.meta.uploads.append_position(uid).await?.ok_or_else(unknown_uid_error)?;
    let AppendPosition { state, offset, size, .. } = position;
    let is_complete = state.is_complete();
    match &position.concatenation {
        // A client that repeats its requests must come to the final upload again.
        Some(Concatenation::Used(_)) => return Ok(UploadOffset { offset, size, is_complete: true }),
        Some(Concatenation::Final(_)) if size == Some(offset) && !is_complete => {
            session::check_open(&position)?;
            complete(uploads, uid, offset, constraints).await?;
            return Ok(UploadOffset { offset, size, is_complete: true });
        }
        _ => session::check_open(&position)?,
    }
    let is_partial = position.concatenation == Some(Concatenation::Partial);
    // The last part of a partial upload may still be suspended.
    let is_settled = is_complete || is_partial && position.suspended.is_none();
    if is_settled || size != Some(offset) {
        return Ok(UploadOffset { offset, size, is_complete });
    }
    let nothing = AppendSpec {
        offset,
        size: SizeHint::Exact(0),
        ends_content: true,
        checksum: None,
        announced_size: None,
    };
    let completing =
        append(uploads.clone(), lock, uid, nothing, constraints.clone(), stream::empty().boxed());
    // Spawned, so that it continues if the client disconnects.
    uploads.detached_work.spawn(completing).await.map_err(Error::internal)?
}

/// Completes an upload that has received all bytes.
pub(super) async fn complete(
    uploads: &Arc<UploadOps>,
    uid: Uid,
    size: u64,
    constraints: &LinkConstraints,
) -> Result<()> {
    if size == 0 {
        return write_whole(uploads, uid, 0, constraints, stream::empty()).await;
    }
    let request = CompleteRequest { parts: None, size: Some(size), expected: ExpectedDigests::default() };
    complete_upload(uploads, uid, request, constraints).await
}

/// Announces the size of the content of an upload that was created without one. Does nothing if the
/// same size was announced before. Fails with `SizeMismatch` if another size was announced, or if
/// more bytes were received.
async fn announce_size(
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
            let message = format!("the size was already announced as {announced} bytes");
            Err(Error::new(ErrorCode::SizeMismatch, message))
        }
        AnnounceSizeOutcome::TooSmall(received) => {
            let message = format!("the size must be at least the {received} bytes that were received");
            Err(Error::new(ErrorCode::SizeMismatch, message))
        }
        AnnounceSizeOutcome::Closed(state) => Err(state_error(state)),
        AnnounceSizeOutcome::Unknown => Err(unknown_uid_error()),
    }
}

/// Returns the record of an upload: its name, metadata and expiry.
#[boxed_future]
pub async fn describe_upload(uploads: &UploadOps, uid: Uid) -> Result<FileRecord> {
    uploads.meta.files.record(uid).await?.ok_or_else(unknown_uid_error)
}
