//! Create a file and store its content in one request.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use osproxy_meta::FileRecord;
use osproxy_storage::Digests;
use osproxy_types::{error_chain, scope::Scope, uid::Uid};

use super::{
    UploadOps, UploadOptions,
    abort_upload::abort_upload,
    create_upload::{UploadRequest, admit_new_file, create_upload},
    describe_file::describe_file,
    too_large_error,
    upload_file::{ExpectedDigests, SizeHint},
};
use crate::{
    Caller, Error, HeldIdempotencyKey, Result, boxed_future,
    session::{self, NewFileOutcome, NewSmallFile, Piece, WriteRequest},
};

/// How long the body may take, in seconds. Then the incomplete file expires.
const MAX_DURATION_SECS: i64 = 24 * 60 * 60;

/// Creates a file of the caller's tenant with `body` as its content, and returns when the
/// content is durable. If this fails, or the future is dropped before the whole body has arrived,
/// the file is removed, and the idempotency key is released.
///
/// The content must have the announced digests. If content with the announced SHA-256 or BLAKE3 is
/// already stored, the file shares that content, and the body is not read.
///
/// With an idempotency key, the file gets the uid that is reserved for the key. If an earlier
/// request with the key has stored the file, the content must be the same: otherwise, this fails
/// with `AlreadyStored`.
#[boxed_future]
pub async fn store_file<'a>(
    uploads: &'a Arc<UploadOps>,
    caller: &'a Caller,
    mut request: UploadRequest,
    size: SizeHint,
    body: BoxStream<'a, Result<Bytes>>,
    key: Option<HeldIdempotencyKey>,
) -> Result<StoredUpload> {
    let expected = request.announced.expected;
    // An MD5 does not identify content: others can have the same.
    request.announced.expected = match expected {
        ExpectedDigests { sha256: None, blake3: None, .. } => ExpectedDigests::default(),
        _ => expected,
    };
    let options =
        UploadOptions { expected, constraints: caller.upload_constraints(), ..UploadOptions::default() };
    let content = NewContent { size, body, describes: true };
    store_content(uploads, caller, request, options, content, key).await
}

/// The body of a request that creates a file.
pub(super) struct NewContent<'a> {
    pub(super) size: SizeHint,
    pub(super) body: BoxStream<'a, Result<Bytes>>,
    /// Whether the record of the file is wanted.
    pub(super) describes: bool,
}

/// Like [`store_file`]. The content must have the digests in `options`; only the announced digests
/// may replace it.
pub(super) async fn store_content<'a>(
    uploads: &'a Arc<UploadOps>,
    caller: &'a Caller,
    request: UploadRequest,
    options: UploadOptions,
    NewContent { mut size, mut body, describes }: NewContent<'a>,
    key: Option<HeldIdempotencyKey>,
) -> Result<StoredUpload> {
    let may_read = caller.has_scope(Scope::Read);
    let max_size = uploads.limits.max_size.min(caller.max_size.unwrap_or(u64::MAX));
    if let SizeHint::Exact(size) = size
        && size > max_size
    {
        return Err(too_large_error(max_size));
    }
    // With an idempotency key, the file must be recorded before its content. With digests that
    // identify content, that content may be stored already.
    let is_plain = key.is_none() && request.announced.expected == ExpectedDigests::default();
    if is_plain && session::may_create_small(uploads, size) {
        let (name, announced) = admit_new_file(uploads, caller, request.clone()).await?;
        let file = NewSmallFile { tenant: caller.tenant.clone(), name, announced };
        match session::try_create(uploads, file, &options, size, body).await? {
            NewFileOutcome::Stored(record) => {
                let digests = record.content.as_ref().and_then(|content| content.digests);
                let uid = record.uid;
                return Ok(StoredUpload { uid, digests, record: Some(record).filter(|_| may_read) });
            }
            NewFileOutcome::NotStored { size: known, body: rest } => (size, body) = (known, rest.boxed()),
        }
    }
    let creating = create(uploads.clone(), caller.clone(), request, size, key);
    // Spawned, so that the file is removed even if this future is dropped meanwhile.
    let Created { uid, is_complete, undo } =
        uploads.detached_work.spawn(creating).await.map_err(Error::internal)??;
    let mut digests = None;
    if !is_complete {
        let request = WriteRequest { uid, piece: Piece::Whole, options, size };
        digests = Some(session::write(uploads, request, body).await?.digests);
    }
    undo.disarm();
    if !may_read || !describes {
        return Ok(StoredUpload { uid, digests, record: None });
    }
    let described = describe_file(&uploads.files, &caller.tenant, uid).await;
    // The file is stored, so the request must not fail.
    let described = described.inspect_err(|error| {
        tracing::warn!(error = error_chain(error), %uid, "cannot describe a file that was stored");
    });
    Ok(StoredUpload { uid, digests, record: described.ok().map(Box::new) })
}

/// A stored file.
#[derive(Debug)]
pub struct StoredUpload {
    /// The uid.
    pub uid: Uid,
    /// Computed digests of the body; `None` if it was not read.
    pub(crate) digests: Option<Digests>,
    /// The record; `None` if the caller lacks the scope `read`, or the record could not be read.
    pub record: Option<Box<FileRecord>>,
}

/// A file that was created, or that an earlier request with the same idempotency key created.
struct Created {
    uid: Uid,
    /// Whether the new file shares known content, so that the body need not be read.
    is_complete: bool,
    undo: UndoGuard,
}

async fn create(
    uploads: Arc<UploadOps>,
    caller: Caller,
    mut request: UploadRequest,
    size: SizeHint,
    key: Option<HeldIdempotencyKey>,
) -> Result<Created> {
    let mut undo = UndoGuard { uploads, uid: None, key };
    // Content of another length is not the known content. A client that knows that the content is
    // stored may send an empty body.
    let expected = &mut request.announced.expected;
    if let SizeHint::Exact(length @ 1..) = size
        && undo.uploads.objects.find_known_content(&caller.tenant, expected, Some(length)).await?.is_none()
    {
        *expected = ExpectedDigests::default();
    }
    let expire = MAX_DURATION_SECS.min(undo.uploads.limits.max_link_lifetime_secs);
    let created = create_upload(&undo.uploads, &caller, vec![request], expire, undo.key.as_ref()).await?;
    let missing = || Error::internal("an upload was not created");
    let upload = created.uploads.into_iter().next().ok_or_else(missing)?;
    undo.uid = Some(upload.uid);
    Ok(Created { uid: upload.uid, is_complete: upload.completed.is_some() && created.is_new, undo })
}

/// Removes an incomplete file and releases the idempotency key when it is dropped, even if the
/// client has disconnected.
struct UndoGuard {
    uploads: Arc<UploadOps>,
    uid: Option<Uid>,
    key: Option<HeldIdempotencyKey>,
}

impl UndoGuard {
    fn disarm(mut self) {
        self.uid = None;
        self.key = None;
    }
}

impl Drop for UndoGuard {
    fn drop(&mut self) {
        let (uid, key) = (self.uid.take(), self.key.take());
        if uid.is_none() && key.is_none() {
            return;
        }
        let uploads = self.uploads.clone();
        self.uploads.detached_work.spawn(async move {
            // If one of these steps fails, the upload expires and the key is free after a minute. A
            // file that was completed in the last moment stays.
            if let Err(error) = undo(&uploads, uid, key).await {
                tracing::debug!(error = error_chain(&error), "cannot remove an incomplete file");
            }
        });
    }
}

async fn undo(uploads: &Arc<UploadOps>, uid: Option<Uid>, key: Option<HeldIdempotencyKey>) -> Result<()> {
    // Another request may have taken over the key, and needs the file.
    let is_ours = match &key {
        Some(key) => uploads.idempotency.is_held(key).await?,
        None => true,
    };
    let aborted = match uid.filter(|_| is_ours) {
        Some(uid) => abort_upload(uploads, uid).await,
        None => Ok(()),
    };
    if let Some(key) = key {
        uploads.idempotency.release(key).await?;
    }
    aborted
}
